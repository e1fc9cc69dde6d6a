// Builds the page: src/ -> dist/ (or the folder given), and licenses.txt, the notices of what is bundled, beside it.
// usage: node build.mjs [FOLDER]
import { build } from "esbuild";
import { copyFile, mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(fileURLToPath(import.meta.url));
const dist = resolve(process.argv[2] ?? join(root, "dist"));

await rm(dist, { recursive: true, force: true });
await mkdir(dist, { recursive: true });

const { metafile } = await build({
  absWorkingDir: root,
  entryPoints: {
    chat: "src/chat/main.tsx",
    monitor: "src/monitor/main.tsx",
    theme: "src/common/theme_first.ts",
    style: "src/style.css",
  },
  outdir: dist,
  bundle: true,
  minify: true,
  format: "iife",
  charset: "utf8",
  target: ["es2022", "chrome123", "firefox120", "safari17.5"],
  legalComments: "none",
  metafile: true,
  logLevel: "warning",
});
for (const name of ["index.html", "monitor.html", "icon.svg"]) await copyFile(join(root, "src", name), join(dist, name));

const packages = new Set();
for (const input of Object.keys(metafile.inputs)) {
  const found = /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input);
  if (found) packages.add(found[1]);
}
let notices = "The page of Sluice contains these packages.\n";
for (const name of [...packages].sort()) {
  const folder = join(root, "node_modules", name);
  const { version, license } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
  const files = (await readdir(folder)).filter((file) => /^licen[cs]e/i.test(file)).sort();
  notices += `\n${"=".repeat(80)}\n${name} ${version}: ${license}\n${"=".repeat(80)}\n\n`;
  for (const file of files) notices += (await readFile(join(folder, file), "utf8")).trim() + "\n";
}
await writeFile(join(dist, "..", "licenses.txt"), notices);
