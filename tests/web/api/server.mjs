// A tiny random model with a tokenizer, and `sluice serve` with it.
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const kShape = {
  model_type: "deepseek_v3", vocab_size: 600, hidden_size: 16, intermediate_size: 24, moe_intermediate_size: 8,
  num_hidden_layers: 2, first_k_dense_replace: 1, num_attention_heads: 2, n_routed_experts: 4, n_shared_experts: 1,
  num_experts_per_tok: 2, n_group: 2, topk_group: 1, q_lora_rank: 8, kv_lora_rank: 8, qk_nope_head_dim: 8,
  qk_rope_head_dim: 4, v_head_dim: 8, max_position_embeddings: 2048, num_nextn_predict_layers: 1, initializer_range: 0.05,
};

/// Makes the model in a folder of `folder` and returns that.
export function make_tiny_model(sluice, text, folder) {
  const run = (...args) => execFileSync(sluice, args, { stdio: ["ignore", "ignore", "inherit"] });
  writeFileSync(join(folder, "shape.json"), JSON.stringify(kShape));
  run("tokenizer", "train", "--data", text, "--vocab-size", "600", "--out", join(folder, "tokenizer"));
  const model = join(folder, "tiny");
  run("init", "--config", join(folder, "shape.json"), "--tokenizer", join(folder, "tokenizer"), "--out", model, "--type", "f32");
  return model;
}

/// Starts a server on a free port and waits until it is ready.
export async function serve(sluice, model, options = [], environment = {}) {
  const child = spawn(sluice, ["serve", "--model", model, "--port", "0", ...options], { env: { ...process.env, ...environment } });
  let log = "";
  child.stderr.on("data", (data) => (log += data));
  const ended = new Promise((resolve) => child.on("close", (code, signal) => resolve({ code, signal })));
  const url = await new Promise((resolve, reject) => {
    let out = "";
    child.stdout.on("data", (data) => {
      const found = /listening on (\S+)\n/.exec((out += data));
      if (found) resolve(found[1]);
    });
    ended.then(() => reject(new Error(`sluice serve ended: ${log}`)));
  });
  while ((await fetch(`${url}/health`)).status !== 200) await new Promise((resolve) => setTimeout(resolve, 20));
  return {
    url,
    model,
    pid: child.pid,
    log: () => log,
    /// Sends a signal and returns how the process ended.
    stop(signal = "SIGTERM") {
      child.kill(signal);
      return ended;
    },
  };
}

/// Makes the tiny model in a folder of its own, which stop() removes, and serves it.
export async function start_server(sluice, text, options = [], environment = {}) {
  const folder = mkdtempSync(join(tmpdir(), "sluice-web-"));
  const server = await serve(sluice, make_tiny_model(sluice, text, folder), ["--threads", "2", ...options], environment);
  const stop = async (signal) => {
    const how = await server.stop(signal);
    rmSync(folder, { recursive: true, force: true });
    return how;
  };
  return { ...server, stop };
}
