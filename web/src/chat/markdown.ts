// Markdown as models write it -> HTML that cannot do anything. The text is untrusted: tags in it are shown as text (but for
// a few plain ones), everything passes DOMPurify with a short list of what may stay, pictures are only links (loading
// one would tell its server what is said here), and formulas are built by Temml without its commands for links and HTML.
import DOMPurify from "dompurify";
import { Lexer, Marked, Parser, type Token } from "marked";
import temml from "temml/temml.js";  // the core: chemistry and physics would be 40 KB more
import { highlight } from "./highlight";

const kPlainTags = /&lt;(\/?)(b|br|del|em|i|ins|kbd|mark|s|small|strong|sub|sup|u|details|summary)\s*\/?&gt;/gi;
const kMaxParagraph = 8_000;  // characters
const kMaxFormula = 20_000;  // characters; Temml nests calls as deep as the formula

const escape = (text: string): string =>
  text.replace(/[&<>"']/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" })[c]!);

const formula_html = (token: any): string =>
  `<span class="formula${token.display ? " display" : ""}" data-tex="${encodeURIComponent(token.tex.trim())}"></span>`;

const marked = new Marked({
  gfm: true,
  extensions: [
    {
      name: "formula_block",
      level: "block",
      start: (src) => /(?:^|\n) {0,3}(?:\$\$|\\\[)/.exec(src)?.index,
      tokenizer(src) {
        const found = /^ {0,3}(?:\$\$([^]{1,20000}?)\$\$|\\\[([^]{1,20000}?)\\\])[ \t]*(?:\n|$)/.exec(src);
        return found ? { type: "formula_block", raw: found[0], tex: found[1] ?? found[2], display: true } : undefined;
      },
      renderer: (token) => `<p>${formula_html(token)}</p>`,
    },
    {
      name: "formula",
      level: "inline",
      start: (src) => /\$|\\[([]/.exec(src)?.index,
      tokenizer(src) {
        const display = /^\$\$([^]{1,2000}?)\$\$|^\\\[([^]{1,2000}?)\\\]/.exec(src);
        if (display) return { type: "formula", raw: display[0], tex: display[1] ?? display[2], display: true };
        // As Pandoc has it, so that "$5 and $10" stays text: no space inside the dollars, no digit after them.
        const inline =
          /^\\\(([^]{1,2000}?)\\\)/.exec(src) ?? /^\$(?![\s$])((?:\\[^]|[^\\$\n]){1,2000}?)(?<!\s)\$(?!\d)/.exec(src);
        return inline ? { type: "formula", raw: inline[0], tex: inline[1], display: false } : undefined;
      },
      renderer: formula_html,
    },
  ],
  // Emphasis takes marked quadratic time: not in what is no paragraph of any writer. (false: as usual.)
  tokenizer: { emStrong: (src) => (src.length > kMaxParagraph ? undefined : false) },
  renderer: {
    html: ({ text }) => escape(text).replace(kPlainTags, "<$1$2>"),
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
    code: ({ text, lang }) => {
      const name = (lang ?? "").trim().split(/[\s,{]/)[0]!.toLowerCase();
      const body = highlight(text, name) ?? escape(text);
      return `<div class="code"><div class="code-head">${escape(name || "text")}</div><pre><code>${body}</code></pre></div>`;
    },
  },
});

const kSanitize = {
  ALLOWED_TAGS: ["a", "b", "blockquote", "br", "code", "del", "details", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr",
    "i", "input", "ins", "kbd", "li", "mark", "ol", "p", "pre", "s", "small", "span", "strong", "sub", "summary", "sup", "table",
    "tbody", "td", "th", "thead", "tr", "u", "ul"],
  ALLOWED_ATTR: ["align", "checked", "class", "data-tex", "disabled", "href", "start", "type"],
  ADD_URI_SAFE_ATTR: ["align", "checked", "class", "data-tex", "disabled", "start", "type"],  // all but href
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  RETURN_DOM_FRAGMENT: true as const,
};

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  } else if (node.tagName === "INPUT" && (node.getAttribute("type") !== "checkbox" || !node.hasAttribute("disabled"))) {
    node.remove();  // only the boxes of task lists
  }
});

/// A top-level piece of a text. Pieces with equal `raw` look the same, so a growing text redraws only its last ones.
export interface Block {
  raw: string;
  render(): DocumentFragment;
}

export function markdown_blocks(text: string): Block[] {
  try {
    const tokens = new Lexer({ ...marked.defaults }).lex(text);
    return tokens
      .filter((token) => token.type !== "space" && token.type !== "def")
      .map((token) => ({ raw: token.raw, render: () => render_block(token) }));
  } catch {
    return [{ raw: text, render: () => plain(text) }];  // nested deeper than the stack, say
  }
}

function render_block(token: Token): DocumentFragment {
  let html: string;
  try {
    html = new Parser({ ...marked.defaults }).parse([token]);
  } catch {
    return plain(token.raw);
  }
  const fragment = DOMPurify.sanitize(html, kSanitize);
  for (const place of fragment.querySelectorAll<HTMLElement>("[data-tex]")) render_formula(place);
  for (const head of fragment.querySelectorAll(".code-head")) head.append(copy_button());
  for (const table of fragment.querySelectorAll("table")) {
    const frame = document.createElement("div");  // scrolls where the table is wider than the screen
    frame.className = "table";
    table.replaceWith(frame);
    frame.append(table);
  }
  return fragment;
}

function plain(text: string): DocumentFragment {
  const fragment = document.createDocumentFragment();
  const block = document.createElement("pre");
  block.textContent = text;
  fragment.append(block);
  return fragment;
}

/// A formula that cannot be read, or is not complete yet, is shown as it was written.
function render_formula(place: HTMLElement): void {
  const tex = decodeURIComponent(place.dataset.tex!);
  place.removeAttribute("data-tex");
  const display = place.classList.contains("display");
  try {
    if (tex.length > kMaxFormula) throw new Error("too long");
    // Through the DOM, not as markup: style attributes in markup are against the page's security policy.
    temml.render(tex, place, { displayMode: display, throwOnError: true, trust: false, maxSize: [50, 200], maxExpand: 500 });
  } catch {
    const code = document.createElement("code");
    code.textContent = tex;
    place.replaceChildren(code);
  }
}

function copy_button(): HTMLButtonElement {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.dataset.copy = "";
  button.textContent = "Copy";
  return button;
}
