// Builds the page into weightlapse/view/page/: one ES module, one style sheet, one HTML file. Deterministic, so that the
// committed bundle can be compared with its sources.
import { build } from "esbuild";
import { copyFile, mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, "..", "weightlapse", "view", "page");
await mkdir(out, { recursive: true });
await build({
  entryPoints: { app: join(here, "src", "main.ts") },
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  legalComments: "none",
  loader: { ".vert": "text", ".frag": "text" },
});
await build({ entryPoints: { app: join(here, "src", "style.css") }, outdir: out, bundle: true, minify: true, charset: "utf8" });
await copyFile(join(here, "src", "index.html"), join(out, "index.html"));
