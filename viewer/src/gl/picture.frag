#version 300 es
// A value to its code, its code to a colour. Where several cells share a pixel they are reduced first, so that no spike hides.
precision highp float;
precision highp int;
precision highp sampler2D;
uniform sampler2D values;
uniform sampler2D palette;
uniform ivec2 cells;   // columns, rows
uniform int fold;      // texels in a row of the texture, where the picture is wider than a texture may be; else 0
uniform bool coded;    // the texture holds codes already
uniform float limit;
uniform int mode;      // 0 extreme, 1 mean, 2 min, 3 max
uniform vec2 pixels;   // device pixels of one cell
in vec2 place;
out vec4 colour;

float fetch(ivec2 cell) {
  if (fold == 0) return texelFetch(values, cell, 0).r;
  int at = cell.y * cells.x + cell.x;
  return texelFetch(values, ivec2(at % fold, at / fold), 0).r;
}

bool isNan(float v) { return (floatBitsToUint(v) & 0x7fffffffu) > 0x7f800000u; }
bool isInf(float v) { return (floatBitsToUint(v) & 0x7fffffffu) == 0x7f800000u; }

float reduced(vec2 at) {
  ivec2 first = ivec2(at);
  ivec2 span = clamp(ivec2(ceil(1.0 / pixels - 0.01)), ivec2(1), ivec2(8));
  if (span == ivec2(1)) return fetch(first);
  float low = 3.4e38, high = -3.4e38, sum = 0.0, count = 0.0;
  for (int i = 0; i < span.y; i++) for (int j = 0; j < span.x; j++) {
    float v = fetch(min(first + ivec2(j, i), cells - 1));
    if (isNan(v)) return v;
    low = min(low, v); high = max(high, v); sum += v; count += 1.0;
  }
  if (mode == 1) return sum / count;
  if (mode == 2) return low;
  if (mode == 3) return high;
  return high >= -low ? high : low;
}

int code(float v) {
  if (isNan(v)) return 0;
  if (isInf(v)) return v < 0.0 ? 1 : 255;
  return int(clamp(v * (125.0 / limit), -126.0, 126.0) + 128.5);
}

void main() {
  vec2 at = min(place * vec2(cells), vec2(cells) - 0.001);
  int c = coded ? int(fetch(ivec2(at)) * 255.0 + 0.5) : code(reduced(at));
  colour = texelFetch(palette, ivec2(c, 0), 0);
  // what is no ordinary number is also marked by shape, where a cell has room for it
  if ((c < 3 || c > 253) && min(pixels.x, pixels.y) >= 7.0) {
    vec2 in_cell = fract(at);
    vec2 px = in_cell * pixels;
    float contrast = dot(colour.rgb, vec3(0.3, 0.6, 0.1)) > 0.5 ? 0.0 : 1.0;
    bool mark;
    if (c == 0) mark = abs(in_cell.x - in_cell.y) < 0.09 || abs(in_cell.x + in_cell.y - 1.0) < 0.09; // cross: not a number
    else if (c == 1 || c == 255) mark = mod(px.x + px.y, 6.0) < 2.0;                                  // hatched: infinite
    else mark = length(in_cell - 0.5) < 0.16;                                                         // dot: beyond the scale
    if (mark) colour.rgb = vec3(contrast);
  }
}
