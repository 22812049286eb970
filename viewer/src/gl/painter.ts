// Pictures on the stage. Two painters draw the same: WebGL2, and plain canvas where a browser has no WebGL2.

import type { Mode } from "../picture/thin";

export interface Texture { readonly width: number; readonly height: number; readonly bytes: boolean }

export interface Item {
  texture: Texture;
  // the picture's box in device pixels
  x: number; y: number; w: number; h: number;
  // cells of the texture, and how many device pixels one of them has
  rows: number; cols: number;
  limit: number;
  mode: Mode;
}

export interface Painter {
  readonly kind: "webgl2" | "canvas";
  /** Make a texture of `rows` x `cols` codes (bytes) or values (floats); `old` is replaced and may be used again. */
  upload(old: Texture | null, data: Uint8Array | Float32Array, rows: number, cols: number): Texture;
  free(texture: Texture): void;
  draw(items: Item[], lookup: Uint8Array, background: [number, number, number]): void;
}
