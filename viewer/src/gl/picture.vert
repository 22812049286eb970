#version 300 es
// One box per picture, in device pixels from the upper left corner.
uniform vec4 box;
uniform vec2 screen;
out vec2 place;
void main() {
  vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1);
  place = corner;
  vec2 at = (box.xy + corner * box.zw) / screen * 2.0 - 1.0;
  gl_Position = vec4(at.x, -at.y, 0.0, 1.0);
}
