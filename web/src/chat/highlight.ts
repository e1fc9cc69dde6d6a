// Code colouring: the languages that models write most, the others stay plain.
import hljs from "highlight.js/lib/core";
import bash from "highlight.js/lib/languages/bash";
import cpp from "highlight.js/lib/languages/cpp";
import diff from "highlight.js/lib/languages/diff";
import go from "highlight.js/lib/languages/go";
import ini from "highlight.js/lib/languages/ini";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import makefile from "highlight.js/lib/languages/makefile";
import python from "highlight.js/lib/languages/python";
import rust from "highlight.js/lib/languages/rust";
import sql from "highlight.js/lib/languages/sql";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";

const kLanguages = { bash, cpp, diff, go, ini, java, javascript, json, makefile, python, rust, sql, xml, yaml };
for (const [name, language] of Object.entries(kLanguages)) hljs.registerLanguage(name, language);
hljs.registerAliases(["shell", "console", "zsh"], { languageName: "bash" });
hljs.registerAliases(["c", "h", "cuda", "cu"], { languageName: "cpp" });
hljs.registerAliases(["ts", "tsx", "typescript"], { languageName: "javascript" });

const kMaxCode = 50_000;  // characters; more is not worth the time at every token

/// HTML with <span class="hljs-...">, everything else escaped; null where the language is unknown.
export function highlight(code: string, language: string): string | null {
  if (code.length > kMaxCode || !hljs.getLanguage(language)) return null;
  return hljs.highlight(code, { language, ignoreIllegals: true }).value;
}
