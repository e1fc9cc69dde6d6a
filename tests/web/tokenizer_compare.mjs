// Compares `sluice tokenizer` with the npm packages `tokenizers` (Rust) and `@huggingface/tokenizers` (JavaScript):
// the same ids on whole files for the published DeepSeek-V3 tokenizer and for one trained here, the same ids on random
// text for many variants of tokenizer.json, the same chat text from our Jinja template, and one thread's speed.
//
//   node tokenizer_compare.mjs --npm DIR --sluice BINARY --work DIR [--min-speed 3] FILE...
//
// DIR of --npm is what tests/tokenizer/fetch_v3_tokenizer.sh made. Exits with 1 at the first difference.
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values: args, positionals: files } = parseArgs({
  allowPositionals: true,
  options: {
    npm: { type: "string" },
    sluice: { type: "string" },
    work: { type: "string" },
    "min-speed": { type: "string", default: "3" },
  },
});
if (!fs.existsSync(path.join(args.npm, "complete"))) {
  console.log("skipped: the npm packages are not installed");
  process.exit(0);
}
process.env.RAYON_NUM_THREADS = "1";
const require = createRequire(path.resolve(args.npm) + "/");
const { Tokenizer: RustTokenizer } = require("tokenizers");
const { Tokenizer: JsTokenizer } = require("@huggingface/tokenizers");
const { Template } = require("@huggingface/jinja");

function refuse(message) {
  console.error("different: " + message);
  process.exit(1);
}

function sluice(...command) {
  const run = spawnSync(args.sluice, ["tokenizer", ...command], { encoding: "utf8", maxBuffer: 1 << 30 });
  if (run.status !== 0) refuse(`sluice tokenizer ${command.join(" ")}: ${run.stderr}`);
  return run;
}

/// Ids and MB/s, as the program reports it: without reading the file and starting up.
function encodeOurs(model, file) {
  const { stdout, stderr } = sluice("encode", "--model", model, "--file", file, "--json");
  const speed = stderr.match(/in ([0-9.]+) s/);
  return { ids: JSON.parse(stdout).ids, seconds: Number(speed[1]) };
}

async function encodeRust(tokenizer, text) {
  const start = performance.now();
  const encoding = await tokenizer.encode(text, null, { addSpecialTokens: false });
  return { seconds: (performance.now() - start) / 1000, ids: encoding.getIds() };
}

function expectSame(what, ours, theirs) {
  const n = Math.max(ours.length, theirs.length);
  for (let i = 0; i < n; ++i)
    if (ours[i] !== theirs[i])
      refuse(`${what}: token ${i}: ${ours.slice(i, i + 8)} instead of ${theirs.slice(i, i + 8)}`);
}

/// The best of two runs of both; throws away nothing but noise.
async function compareFile(model, name, file, rust, js) {
  const text = fs.readFileSync(file, "utf8");
  const ours = [encodeOurs(model, file), encodeOurs(model, file)];
  const theirs = [await encodeRust(rust, text), await encodeRust(rust, text)];
  expectSame(`${name}, ${file}, tokenizers`, ours[0].ids, theirs[0].ids);
  expectSame(`${name}, ${file}, @huggingface/tokenizers`, ours[0].ids, js.encode(text, { add_special_tokens: false }).ids);
  const best = (runs) => Buffer.byteLength(text) / 1e6 / Math.min(...runs.map((run) => run.seconds));
  const ratio = best(ours) / best(theirs);
  console.log(
    `${name}, ${path.basename(file)}: ${ours[0].ids.length} ids are the same; ` +
      `${best(ours).toFixed(1)} MB/s, tokenizers ${best(theirs).toFixed(2)} MB/s: ${ratio.toFixed(1)}x`,
  );
  if (ratio < Number(args["min-speed"])) refuse(`${name}, ${file}: expected ${args["min-speed"]}x the speed`);
}

async function compareFiles(name, model) {
  const rust = RustTokenizer.fromFile(path.join(model, "tokenizer.json"));
  const read = (file) => JSON.parse(fs.readFileSync(path.join(model, file), "utf8"));
  const js = new JsTokenizer(read("tokenizer.json"), read("tokenizer_config.json"));
  for (const file of files) await compareFile(model, name, file, rust, js);
}

const split = (pattern, behavior = "Isolated", invert = false) => ({ type: "Split", pattern, behavior, invert });
const byteLevel = (use_regex, add_prefix_space) => ({ type: "ByteLevel", add_prefix_space, trim_offsets: true, use_regex });
const behaviors = ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"];
const stages = [
  [byteLevel(false, false)],
  [byteLevel(true, false)],
  [byteLevel(true, true)],
  [byteLevel(false, true)],
  [{ type: "Digits", individual_digits: true }, byteLevel(true, false)],
  [{ type: "Digits", individual_digits: false }, byteLevel(false, true)],
  [{ type: "Sequence", pretokenizers: [split({ String: "." }), split({ Regex: "\\s+" }, "Removed")] }, byteLevel(true, false)],
  [split({ Regex: "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+" }), byteLevel(false, false)],
  [split({ Regex: "[\\r\\n]" }), split({ Regex: "\\s?\\p{L}+" }), split({ Regex: "\\s?\\p{P}+" }), split({ Regex: "[一-龥ࠀ-一가-퟿]+" }), { type: "Digits", individual_digits: true }, byteLevel(false, false)],
  [split({ Regex: "^[^a-z]|.$" }), byteLevel(false, false)],
  [split({ Regex: "\\w+|\\h|[\\s]" }), byteLevel(false, false)],
  [split({ Regex: "(?=[A-Z])" }), byteLevel(false, false)],
];
for (const behavior of behaviors)
  for (const invert of [false, true])
    for (const pattern of [{ Regex: "[aeiou]|\\s" }, { String: "a" }])
      stages.push([split(pattern, behavior, invert), byteLevel(false, false)]);

let state = 12345;
function random(n) {
  state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
  return (state >>> 8) % n;
}

function randomText(extra) {
  const atoms = ["a", "b", "the", "X", "aa", "'s", "'LL", "don't", ".", ",", "!?", "-", "$", "<", "1", "22", "4567", "½", "٣",
    "  ", " ", " ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u0085", "\u180e", "\u200b", "中文", "红楼梦", "ひらカ", "한국", "é", "e\u0301",
    "👍🏽", "𝕳", "\0", "\u2028", "_", "ß", "ſ", ...extra];
  let text = "";
  for (let i = 0; i < 3000; ++i) text += atoms[random(atoms.length)];
  return text;
}

/// Variants of the trained tokenizer: other stages, merges as pairs, added tokens with every flag.
async function compareVariants(trained) {
  const base = JSON.parse(fs.readFileSync(path.join(trained, "tokenizer.json"), "utf8"));
  const folder = path.join(args.work, "variant");
  fs.mkdirSync(folder, { recursive: true });
  const text = path.join(folder, "text.txt");
  for (const [i, pretokenizers] of stages.entries()) {
    const json = structuredClone(base);
    json.pre_tokenizer = { type: "Sequence", pretokenizers };
    if (i % 2) json.model.merges = json.model.merges.map((merge) => merge.split(" "));
    json.model.ignore_merges = i % 3 === 1;
    const size = base.added_tokens.at(-1).id + 1;
    for (let flags = 0; flags < 16; ++flags)
      json.added_tokens.push({
        id: size + flags, content: `<t${flags}>`, special: true, normalized: (flags & 8) !== 0,
        single_word: (flags & 1) !== 0, lstrip: (flags & 2) !== 0, rstrip: (flags & 4) !== 0,
      });
    fs.writeFileSync(path.join(folder, "tokenizer.json"), JSON.stringify(json));
    fs.writeFileSync(text, randomText(json.added_tokens.map((token) => token.content)));
    const rust = RustTokenizer.fromFile(path.join(folder, "tokenizer.json"));
    const theirs = await encodeRust(rust, fs.readFileSync(text, "utf8"));
    expectSame(`variant ${i} ${JSON.stringify(pretokenizers)}`, encodeOurs(folder, text).ids, theirs.ids);
  }
  console.log(`${stages.length} variants of tokenizer.json: the ids are the same`);
}

function compareChat(trained) {
  const config = JSON.parse(fs.readFileSync(path.join(trained, "tokenizer_config.json"), "utf8"));
  const folder = path.dirname(fileURLToPath(import.meta.url));
  const cases = JSON.parse(fs.readFileSync(path.join(folder, "../tokenizer/chat_cases.json"), "utf8"));
  for (const { name, messages, add_generation_prompt, text } of cases) {
    const rendered = new Template(config.chat_template).render({ messages, add_generation_prompt });
    if (rendered !== text) refuse(`chat template, ${name}: ${rendered}`);
  }
  console.log(`${cases.length} chats: the Jinja template gives the same text`);
}

const trained = path.join(args.work, "trained");
sluice("train", "--data", ...files, "--vocab-size", "4096", "--out", trained);
compareChat(trained);
await compareVariants(trained);
await compareFiles("trained tokenizer", trained);
await compareFiles("DeepSeek-V3", args.npm);
