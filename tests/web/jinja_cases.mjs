// Renders chats with the npm package @huggingface/jinja for every template of a folder and for the one that the
// published DeepSeek-V3 tokenizer carries, and writes templates, variables and texts to a JSON file, which
// JinjaCompare.* of chat_test reads.
//
//   node jinja_cases.mjs --npm DIR --templates DIR --out FILE
//
// DIR of --npm is what tests/tokenizer/fetch_v3_tokenizer.sh made. Exits with 77 where that has nothing.
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { parseArgs } from "node:util";

const { values: args } = parseArgs({
  options: { npm: { type: "string" }, templates: { type: "string" }, out: { type: "string" } },
});
if (!fs.existsSync(path.join(args.npm, "complete"))) {
  console.log("skipped: the npm packages are not installed");
  process.exit(77);
}
const { Template } = createRequire(path.resolve(args.npm) + "/")("@huggingface/jinja");

const call = (id, name, args) => ({ id, type: "function", function: { name, arguments: args } });
const tools = [
  {
    type: "function",
    function: {
      name: "weather",
      description: "Today's \"weather\" <in> a city & its süd\n\twest",
      parameters: { type: "object", properties: { city: { type: "string" }, days: { type: "integer", default: 3 } }, required: ["city"] },
    },
  },
  { type: "function", function: { name: "now", parameters: {} } },
];
const user = { role: "user", content: "Hello, 你好 { } {{ x }} 'q'\n" };
const chats = {
  "one question": [user],
  "system first": [{ role: "system", content: "Be brief." }, user],
  "two systems, one late": [{ role: "system", content: "Be brief." }, user, { role: "assistant", content: "Hi" }, { role: "system", content: "And kind." }, user],
  "earlier thinking": [user, { role: "assistant", content: "<think>hm\n</think>\n\nYes." }, user],
  "one call": [user, { role: "assistant", content: null, tool_calls: [call("functions.now:0", "now", "{}")] }],
  "two calls and results": [
    user,
    { role: "assistant", content: null, tool_calls: [call("functions.weather:0", "weather", '{"city": "Bath"}'), call("functions.now:1", "now", "{}")] },
    { role: "tool", tool_call_id: "functions.weather:0", content: "rain" },
    { role: "tool", tool_call_id: "functions.now:1", name: "now", content: "noon" },
    { role: "assistant", content: "It rains." },
    user,
  ],
  "results last": [
    user,
    { role: "assistant", content: null, tool_calls: [call("a", "weather", '{"city": "Bath"}')] },
    { role: "tool", tool_call_id: "a", content: "rain" },
  ],
  "text before a call": [user, { role: "assistant", content: "Let me see.", tool_calls: [call("a", "now", "{}")] }, { role: "tool", tool_call_id: "a", content: "1" }, { role: "assistant", content: "One." }],
};

const templates = fs.readdirSync(args.templates).filter((f) => f.endsWith(".jinja")).sort()
  .map((file) => ({ name: file, source: fs.readFileSync(path.join(args.templates, file), "utf8") }));
const published = JSON.parse(fs.readFileSync(path.join(args.npm, "tokenizer_config.json"), "utf8"));
templates.push({ name: "published DeepSeek-V3", source: published.chat_template });

const cases = [];
for (const { name, source } of templates) {
  const template = new Template(source);
  const knowsCalls = source.includes("tool_calls");
  for (const [chat, messages] of Object.entries(chats)) {
    if (!knowsCalls && messages.some((message) => message.tool_calls)) continue; // null is "" there, None in Python
    for (const add_generation_prompt of [true, false])
      for (const extra of [{}, { thinking: true }, { tools }]) {
        const context = { messages, add_generation_prompt, bos_token: "<｜begin▁of▁sentence｜>", eos_token: "<｜end▁of▁sentence｜>", ...extra };
        cases.push({ name: `${name}, ${chat}`, source, context, text: template.render(context) });
      }
  }
}
fs.writeFileSync(args.out, JSON.stringify(cases));
console.log(`${cases.length} chats with ${templates.length} templates`);
