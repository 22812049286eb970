// Unit tests: bundled like the page itself and run by Node's own runner. `npm test`, or `npm test -- chart` for one file.
import { build } from "esbuild";
import { spawnSync } from "node:child_process";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = join(dirname(fileURLToPath(import.meta.url)), "test");
const files = (await readdir(folder)).filter((f) => f.endsWith(".test.ts") && f.includes(process.argv[2] ?? ""));
if (!files.length) throw new Error(`no test matches ${process.argv[2] ?? "*.test.ts"}`);
const out = await mkdtemp(join(tmpdir(), "weightlapse-viewer-"));
let status = 1;
try {
  await build({ entryPoints: files.map((f) => join(folder, f)), outdir: out, bundle: true, platform: "node", format: "esm", target: "es2022",
    outExtension: { ".js": ".mjs" }, loader: { ".vert": "text", ".frag": "text", ".json": "json" }, sourcemap: "inline" });
  status = spawnSync(process.execPath, ["--enable-source-maps", "--test", ...files.map((f) => join(out, f.replace(/\.ts$/, ".mjs")))],
    { stdio: "inherit" }).status ?? 1;
} finally {
  await rm(out, { recursive: true, force: true });
}
process.exit(status);
