// Loads GGUF files of ours with the npm package node-llama-cpp (prebuilt llama.cpp), for random models of several kinds
// and types. Compares the ids of a text and, by normalised mean square error, the logits of 25 tokens: of both programs
// on the same file, and of ours with the other program's on the same weights in float32.
//
//   node llama_cpp.mjs --npm DIR --sluice BINARY --work DIR TEXT
//
// DIR of --npm is what fetch_llama_cpp.sh made; without it the script ends with 77 (skipped).
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const { values: args, positionals } = parseArgs({
  allowPositionals: true,
  options: { npm: { type: "string" }, sluice: { type: "string" }, work: { type: "string" } },
});
if (!fs.existsSync(path.join(args.npm, "complete"))) {
  console.log("skipped: node-llama-cpp is not installed");
  process.exit(77);
}
// With types in blocks of 256 the other program rounds activations per 256 numbers; ours does it per 32 always.
const kTokens = 25, kMaxError = 1e-3, kMaxErrorBlocks256 = 2.5e-3, kMaxErrorExact = 1e-5;
const kShape = {
  model_type: "deepseek_v3", vocab_size: 1024, hidden_size: 256, intermediate_size: 512, moe_intermediate_size: 256,
  num_hidden_layers: 3, first_k_dense_replace: 1, num_attention_heads: 4, n_routed_experts: 16, n_shared_experts: 1,
  num_experts_per_tok: 4, n_group: 4, topk_group: 2, routed_scaling_factor: 2.5, q_lora_rank: 256, kv_lora_rank: 256,
  qk_nope_head_dim: 64, qk_rope_head_dim: 32, v_head_dim: 64, max_position_embeddings: 2048, initializer_range: 0.06,
  rope_theta: 10000, bos_token_id: 0, eos_token_id: 1,
};
const kYarn = {
  type: "yarn", factor: 40, beta_fast: 32, beta_slow: 1, mscale: 1, mscale_all_dim: 1,
  original_max_position_embeddings: 64,
};
// Rounded activations move the router's choices between near-equal experts: where weights are rounded, all are chosen.
const kAllExperts = { num_hidden_layers: 2, n_routed_experts: 4, num_experts_per_tok: 4, n_group: 1, topk_group: 1 };
// The other program tells models without compression of q by their 27 layers.
const kLite = { num_hidden_layers: 27, first_k_dense_replace: 25, q_lora_rank: null, n_group: 1, topk_group: 1 };
const kVariants = [
  { name: "v3-f32", type: "f32", shape: {} },
  { name: "mtp-f32", type: "f32", shape: { num_nextn_predict_layers: 1 } },
  { name: "yarn-f32", type: "f32", shape: { rope_scaling: kYarn } },
  { name: "moonlight-f32", type: "f32", shape: { ...kLite, rms_norm_eps: 1e-5, rope_theta: 50000 } },
  { name: "v2-lite-f32", type: "f32", shape: { ...kLite, model_type: "deepseek_v2", scoring_func: "softmax",
      topk_method: "greedy", norm_topk_prob: false, routed_scaling_factor: 1 } },
  ...["bf16", "q8_0", "q6_k", "q5_0", "q4_k", "iq4_nl", "q2_k"].map(
    (type) => ({ name: "v3-" + type, type, shape: kAllExperts })),
];

function refuse(message) {
  console.error("different: " + message);
  process.exit(1);
}

function sluice(...command) {
  const run = spawnSync(args.sluice, command, { encoding: "utf8", maxBuffer: 1 << 30 });
  if (run.status !== 0) refuse(`sluice ${command.join(" ")}: ${run.stderr}`);
  return run.stdout;
}

/// The float32 `logits` of a safetensors file that holds nothing else.
function readLogits(file, vocab) {
  const bytes = fs.readFileSync(file), begin = 8 + Number(bytes.readBigUInt64LE(0));
  const rows = [];
  for (let at = begin; at < bytes.length; at += 4 * vocab)
    rows.push(Float32Array.from({ length: vocab }, (_, i) => bytes.readFloatLE(at + 4 * i)));
  return rows;
}

const { getLlama, LlamaLogLevel } = await import(
  pathToFileURL(path.resolve(args.npm, "node_modules/node-llama-cpp/dist/index.js")));
const llama = await getLlama({ gpu: false, build: "never", progressLogs: false, logLevel: LlamaLogLevel.error, maxThreads: 1 });

async function withModel(file, use) {
  const model = await llama.loadModel({ modelPath: file, gpuLayers: 0 });
  try {
    return await use(model);
  } finally {
    await model.dispose();
  }
}

/// Compares the ids of the text, with the begin token that ours puts first. Returns the first ones.
async function compareIds(file, name) {
  const theirs = await withModel(file, (model) => [0, ...model.tokenize(fs.readFileSync(at("text"), "utf8"))]);
  const ours = JSON.parse(sluice("score", "--model", file, "--file", at("text"), "--json")).ids;
  const n = Math.max(ours.length, theirs.length);
  for (let i = 0; i < n; ++i)
    if (ours[i] !== theirs[i]) refuse(`${name}: id ${i} of the text, ours ${ours.slice(i, i + 5)}, theirs ${theirs.slice(i, i + 5)}`);
  console.log(`${name}: ${n} ids equal`);
  return ours.slice(0, kTokens);
}

/// Replaces the merges of a tokenizer by as many of the most frequent pairs of a text, whatever they straddle: then the
/// ids show every place where the pre-tokenizer cuts.
function mergeAcrossWords(folder, text) {
  const file = path.join(folder, "tokenizer.json"), json = JSON.parse(fs.readFileSync(file, "utf8"));
  const merged = json.model.merges.map((merge) => json.model.vocab[merge.replace(" ", "")]);
  for (const merge of json.model.merges) delete json.model.vocab[merge.replace(" ", "")];
  const kept = [...Array(94).keys()].map((i) => i + 33).concat([...Array(12).keys()].map((i) => i + 161),
    [...Array(82).keys()].map((i) => i + 174));
  const symbol = (byte) => String.fromCharCode(kept.includes(byte) ? byte
    : 256 + [...Array(byte).keys()].filter((b) => !kept.includes(b)).length);
  let parts = [...Buffer.from(text)].map(symbol);
  json.model.merges = [];
  for (const id of merged) {
    const counts = new Map();
    for (let i = 0; i + 1 < parts.length; ++i) {
      const pair = parts[i] + " " + parts[i + 1];
      if (!((parts[i] + parts[i + 1]) in json.model.vocab)) counts.set(pair, (counts.get(pair) ?? 0) + 1);
    }
    if (counts.size === 0) break;
    const [left, right] = [...counts].reduce((a, b) => (b[1] > a[1] ? b : a))[0].split(" ");
    json.model.merges.push(left + " " + right);
    json.model.vocab[left + right] = id;
    const next = [];
    for (let i = 0; i < parts.length; ++i)
      next.push(parts[i] === left && parts[i + 1] === right ? parts[i] + parts[++i] : parts[i]);
    parts = next;
  }
  fs.writeFileSync(file, JSON.stringify(json));
}

/// Writes `file` to `out` with another pre-tokenizer. The template gives or takes the bytes, so that nothing moves.
function renamePreTokenizer(file, out, name) {
  const bytes = fs.readFileSync(file);
  const field = (key) => {
    const begin = bytes.indexOf(key) + key.length + 4;  // key, type, length, text
    const length = Number(bytes.readBigUInt64LE(begin));
    return { begin, end: begin + 8 + length, text: bytes.subarray(begin + 8, begin + 8 + length) };
  };
  const encoded = (text) => {
    const size = Buffer.alloc(8);
    size.writeBigUInt64LE(BigInt(text.length));
    return Buffer.concat([size, text]);
  };
  const pre = field("tokenizer.ggml.pre"), template = field("tokenizer.chat_template");
  const length = template.text.length - (name.length - pre.text.length);
  const shorter = Buffer.concat([template.text, Buffer.alloc(64, " ")]).subarray(0, length);
  fs.writeFileSync(out, Buffer.concat([bytes.subarray(0, pre.begin), encoded(Buffer.from(name)),
    bytes.subarray(pre.end, template.begin), encoded(shorter), bytes.subarray(template.end)]));
}

/// Logits after each of `ids`, as Maps from token to logit.
function theirLogits(file, ids) {
  const options = { temperature: 1, topK: 0, topP: 1, minP: 0 };
  return withModel(file, async (model) => {
    const context = await model.createContext({ contextSize: 256, batchSize: 256, threads: 1 });
    const items = ids.map((id) => [id, { generateNext: { logits: true, options } }]);
    return (await context.getSequence().controlledEvaluate(items)).map((r) => r.next.logits);
  });
}

/// The same of ours, as arrays.
function ourLogits(file, ids) {
  sluice("score", "--model", file, "--ids", ids.join(), "--logits", at("logits"), "--json");
  return readLogits(at("logits"), kShape.vocab_size);
}

function expectClose(what, ours, theirs, most) {
  let difference = 0, size = 0;
  ours.forEach((row, t) => row.forEach((x, i) => {
    const y = theirs[t].get(i);
    difference += (x - y) ** 2;
    size += y ** 2;
  }));
  const error = difference / size;
  console.log(`${what}: error ${error.toExponential(2)}`);
  if (!(error <= most)) refuse(`${what}: expected an error of at most ${most}, found ${error}`);
}

const at = (name) => path.join(args.work, name);
fs.rmSync(args.work, { recursive: true, force: true });
fs.mkdirSync(args.work, { recursive: true });
sluice("tokenizer", "train", "--data", positionals[0], "--vocab-size", String(kShape.vocab_size), "--out", at("tokenizer"));
const words = "12345 0x1f 你好，世界。 don't I'LL it's\r\n\n  x\t\tHelloWorld CamelCASE Ünïcödé naïve привет мир カタカナとひらがな 한국어 " +
  "a+b==c; f(x)[0] {y} ~`@#$%^&* — “quoted” … 3.14159 ½ ٣٤ 👍🏽   end  \n";
const text = fs.readFileSync(positionals[0], "utf8").slice(2000, 4000) + words;
fs.writeFileSync(at("text"), text);
mergeAcrossWords(at("tokenizer"), words);
for (const { name, type, shape } of kVariants) {
  fs.writeFileSync(at(name + ".json"), JSON.stringify({ ...kShape, ...shape }));
  sluice("init", "--config", at(name + ".json"), "--type", type, "--tokenizer", at("tokenizer"), "--out", at(name + ".gguf"));
  const ids = await compareIds(at(name + ".gguf"), name);
  const ours = ourLogits(at(name + ".gguf"), ids);
  expectClose(name, ours, await theirLogits(at(name + ".gguf"), ids), type.endsWith("_k") ? kMaxErrorBlocks256 : kMaxError);
  if (type === "f32") continue;
  sluice("quantize", at(name + ".gguf"), "--type", "f32", "--out", at("exact.gguf"));
  const exact = await theirLogits(at("exact.gguf"), ids);
  expectClose(name + ", same weights in f32", ourLogits(at("exact.gguf"), ids), exact, kMaxErrorExact);
  expectClose(name + ", ours against f32", ours, exact, kMaxError);
}
for (const name of ["deepseek-llm", "deepseek-coder", "kimi-k2"]) {
  renamePreTokenizer(at("v3-f32.gguf"), at("renamed.gguf"), name);
  await compareIds(at("renamed.gguf"), name);
}
process.exit(0);
