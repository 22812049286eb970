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
uniform float factor;  // codes per value: 125 / the end of the scale
uniform int mode;      // 0 extreme, 1 mean, 2 min, 3 max, 4 typical
uniform float spike;   // what is farther from zero is drawn even in typical tiles
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
  float extreme = high >= -low ? high : low;
  if (mode == 0 || abs(extreme) > spike) return extreme;
  return fetch(min(first + span / 2, cells - 1));
}

int code(float v) {
  if (isNan(v)) return 0;
  if (isInf(v)) return v < 0.0 ? 1 : 255;
  return int(clamp(v * factor, -126.0, 126.0) + 128.5);
}

void main() {
  vec2 at = min(place * vec2(cells), vec2(cells) - 0.001);
  int c = coded ? int(fetch(ivec2(at)) * 255.0 + 0.5) : code(reduced(at));
  colour = texelFetch(palette, ivec2(c, 0), 0);
  // what is no ordinary number is also marked by shape, where a cell has room for it; whole numbers, as in picture/marks.ts
  if ((c < 3 || c > 253) && min(pixels.x, pixels.y) >= 6.0) {
    ivec2 size = ivec2(pixels + 0.001), px = ivec2(fract(at) * pixels + 0.001);
    int x = 2 * px.x + 1 - size.x, y = 2 * px.y + 1 - size.y, side = min(size.x, size.y);
    bool inside = 100 * max(abs(x), abs(y)) <= 68 * side;
    bool mark = c == 0 ? inside && 100 * abs(abs(x) - abs(y)) <= max(16 * side, 120)
      : c == 255 ? inside && 200 * abs(x) <= 100 * y + 68 * side
      : c == 1 ? inside && 200 * abs(x) <= 68 * side - 100 * y
      : 25 * (x * x + y * y) <= max(4 * side * side, 64);
    ivec3 full = ivec3(colour.rgb * 255.0 + 0.5);
    if (mark) colour.rgb = vec3(3 * full.r + 6 * full.g + full.b > 1275 ? 0.0 : 1.0);
  }
}
