import vertex from "./picture.vert";
import light from "./codes.frag";
import fragment from "./picture.frag";
import { factorOf } from "../picture/codes";
import { SIGNED } from "../picture/marks";
import { spikeOf } from "../picture/thin";
import type { Painter, Texture } from "./painter";

interface GlTexture extends Texture { handle: WebGLTexture; fold: number; texW: number; texH: number }

const MODES = { extreme: 0, mean: 1, min: 2, max: 3, typical: 4 } as const;

/** Whether WebGL2 would be drawn by the processor: a browser that only imitates it draws faster on a plain canvas. */
function imitated(): boolean {
  const gl = document.createElement("canvas").getContext("webgl2");
  const about = gl?.getExtension("WEBGL_debug_renderer_info");
  const renderer = gl && about ? String(gl.getParameter(about.UNMASKED_RENDERER_WEBGL)) : "";
  gl?.getExtension("WEBGL_lose_context")?.loseContext();
  return /swiftshader|llvmpipe|software|basic render/i.test(renderer);
}

/** Draws with WebGL2, or returns null where there is none, or none worth it. */
export function webglPainter(canvas: HTMLCanvasElement): Painter | null {
  if (imitated()) return null;
  const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, depth: false, preserveDrawingBuffer: true });
  if (!gl) return null;
  const program = link(gl, fragment), lightProgram = link(gl, light);
  const at = (name: string) => gl.getUniformLocation(program, name);
  const u = { box: at("box"), screen: at("screen"), values: at("values"), palette: at("palette"), cells: at("cells"), fold: at("fold"),
    coded: at("coded"), factor: at("factor"), mode: at("mode"), spike: at("spike"), pixels: at("pixels") };
  const v = { box: gl.getUniformLocation(lightProgram, "box"), screen: gl.getUniformLocation(lightProgram, "screen"),
    size: gl.getUniformLocation(lightProgram, "size") };
  gl.useProgram(lightProgram);
  gl.uniform1i(gl.getUniformLocation(lightProgram, "values"), 0);
  gl.uniform1i(gl.getUniformLocation(lightProgram, "palette"), 1);
  const most = gl.getParameter(gl.MAX_TEXTURE_SIZE) as number;
  gl.useProgram(program);
  gl.bindVertexArray(gl.createVertexArray());
  gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
  gl.uniform1i(u.values, 0);
  gl.uniform1i(u.palette, 1);

  const make = (): WebGLTexture => {
    const handle = gl.createTexture()!;
    gl.bindTexture(gl.TEXTURE_2D, handle);
    for (const side of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, side, gl.NEAREST);
    for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
    return handle;
  };
  gl.activeTexture(gl.TEXTURE1);
  make();
  let shown: Uint8Array | null = null;
  gl.activeTexture(gl.TEXTURE0);

  return {
    kind: "webgl2",
    upload(old, data, rows, cols) {
      const bytes = data instanceof Uint8Array;
      const straight = cols <= most && rows <= most;
      const texW = straight ? cols : Math.min(most, 4096), texH = straight ? rows : Math.ceil((rows * cols) / texW);
      if (!straight) {
        const padded = bytes ? new Uint8Array(texW * texH) : new Float32Array(texW * texH);
        padded.set(data);
        data = padded;
      }
      const [inner, format, type] = bytes ? [gl.R8, gl.RED, gl.UNSIGNED_BYTE] : [gl.R32F, gl.RED, gl.FLOAT];
      const before = old as GlTexture | null;
      const texture: GlTexture = { handle: before?.handle ?? make(), width: cols, height: rows, bytes, fold: straight ? 0 : texW, texW, texH };
      gl.bindTexture(gl.TEXTURE_2D, texture.handle);
      if (before && before.bytes === bytes && before.texW === texW && before.texH === texH)
        gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, texW, texH, format, type, data);
      else gl.texImage2D(gl.TEXTURE_2D, 0, inner, texW, texH, 0, format, type, data);
      return texture;
    },
    free(texture) { gl.deleteTexture((texture as GlTexture).handle); },
    draw(items, lookup, background) {
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clearColor(background[0] / 255, background[1] / 255, background[2] / 255, 1);
      gl.clear(gl.COLOR_BUFFER_BIT);
      if (shown !== lookup) {
        gl.activeTexture(gl.TEXTURE1);
        gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, lookup);
        gl.activeTexture(gl.TEXTURE0);
        shown = lookup;
      }
      for (const item of items) {
        const texture = item.texture as GlTexture;
        gl.bindTexture(gl.TEXTURE_2D, texture.handle);
        if (texture.bytes && !texture.fold && Math.min(item.w / item.cols, item.h / item.rows) < SIGNED) {
          gl.useProgram(lightProgram);
          gl.uniform2f(v.screen, canvas.width, canvas.height);
          gl.uniform4f(v.box, item.x, item.y, item.w, item.h);
          gl.uniform2f(v.size, texture.width, texture.height);
          gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
          continue;
        }
        gl.useProgram(program);
        gl.uniform2f(u.screen, canvas.width, canvas.height);
        gl.uniform4f(u.box, item.x, item.y, item.w, item.h);
        gl.uniform2i(u.cells, texture.width, texture.height);
        gl.uniform1i(u.fold, texture.fold);
        gl.uniform1i(u.coded, texture.bytes ? 1 : 0);
        gl.uniform1f(u.factor, factorOf(item.limit));
        gl.uniform1i(u.mode, MODES[item.mode]);
        gl.uniform1f(u.spike, spikeOf(item.limit));
        gl.uniform2f(u.pixels, item.w / item.cols, item.h / item.rows);
        gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
      }
    },
  };
}

function link(gl: WebGL2RenderingContext, fragment: string): WebGLProgram {
  const program = gl.createProgram()!;
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]] as [number, string][]) {
    const shader = gl.createShader(kind)!;
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader) ?? "shader");
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program) ?? "program");
  return program;
}
