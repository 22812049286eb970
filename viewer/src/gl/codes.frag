#version 300 es
// Codes to colours and no more: what a playing page draws, as light as can be for machines that draw in software.
precision mediump float;
precision highp int;
uniform highp sampler2D values;
uniform mediump sampler2D palette;
uniform highp vec2 size; // columns, rows
in highp vec2 place;
out vec4 colour;
void main() {
  highp ivec2 cell = ivec2(place * size);
  colour = texelFetch(palette, ivec2(int(texelFetch(values, cell, 0).r * 255.0 + 0.5), 0), 0);
}
