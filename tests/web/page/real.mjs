// Runs the tests of the page against `sluice serve`, with two small models that are trained for it: one that answers, one
// that continues texts.
// usage: tests/web/page_real.sh SLUICE
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { serve } from "../api/server.mjs";

const { SLUICE, TEXT } = process.env;
const here = fileURLToPath(new URL(".", import.meta.url));

/// A question is the beginning of a paragraph, its answer how the text goes on; who asks for a long story gets one.
function conversations(text) {
  const paragraphs = text.split(/\n\n+/).map((p) => p.replaceAll("\n", " ").trim()).filter((p) => p.length > 80);
  const turns = (user, assistant) => ({ messages: [{ role: "user", content: user }, { role: "assistant", content: assistant }] });
  const chats = [];
  for (let i = 0; i + 8 < paragraphs.length; i += 4) {
    const words = paragraphs[i].split(" ");
    chats.push(i % 8 === 0 ? turns("Write a very long story.", paragraphs.slice(i, i + 8).join("\n\n"))
      : turns(words.slice(0, 6).join(" "), words.slice(6).join(" ")));
  }
  return chats;
}

/// Returns the checkpoint.
function train(out, ...settings) {
  const args = ["train", "--out", out, "micro_batch=4", "batch_size=4", "eval_every=0", ...settings];
  const { status, stderr } = spawnSync(SLUICE, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`sluice train: ${stderr.slice(-2000)}`);
  return join(out, "latest");
}

const folder = mkdtempSync(join(tmpdir(), "sluice-page-")), servers = [];
try {
  const chats = join(folder, "chats.jsonl");
  writeFileSync(chats, conversations(readFileSync(TEXT, "utf8")).map((chat) => JSON.stringify(chat) + "\n").join(""));
  const base = train(join(folder, "base"), "--size", "tiny", "--data", TEXT, "vocab_size=2048", "steps=150");
  const tuned = train(join(folder, "tuned"), "--init-from", base, "--data", chats, "steps=80", "bias_speed=0");
  for (const [model, name] of [[tuned, "austen-chat"], [base, "austen"]]) servers.push(await serve(SLUICE, model, ["--served-model-name", name]));
  const tests = readdirSync(here).filter((name) => name.endsWith("_test.mjs")).map((name) => join(here, name));
  const env = { ...process.env, PAGE_URL: servers[0].url, PAGE_BASE_URL: servers[1].url };
  process.exitCode = spawnSync("node", ["--test", ...tests], { stdio: "inherit", env }).status ?? 1;
  for (const server of servers) {
    const { code } = await server.stop();
    if (code !== 0) throw new Error(`sluice serve: expected exit code 0, found ${code}: ${server.log().slice(-2000)}`);
  }
} finally {
  for (const server of servers) await server.stop("SIGKILL");
  rmSync(folder, { recursive: true, force: true });
}
