// What the page makes of a model's text: formatting, and nothing that acts.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { ask, close_browser, mock_only, open_browser, open_page, shot } from "./browser.mjs";

before(open_browser);
after(close_browser);

test("formats Markdown, code and formulas", mock_only, async (t) => {
  const { page, complaints } = await open_page(t);
  await ask(page, "markdown");
  const count = (selector) => page.locator(`.markdown ${selector}`).count();
  assert.equal(await count("h2"), 1);
  assert.equal(await count("ol > li"), 2);
  assert.equal(await count("td"), 6);
  assert.equal(await count("blockquote"), 1);
  assert.equal(await count('li input[type="checkbox"]:disabled'), 2);
  assert.equal(await page.locator(".code-head").innerText().then((text) => text.split(/\s/)[0]), "python");
  assert.ok(await count(".hljs-keyword") >= 3);
  assert.equal(await count("math"), 4);
  assert.equal(await count(".formula.display math mfrac"), 2);
  assert.match(await page.locator(".markdown").innerText(), /costs \$5 or \$10 in print/);
  const link = page.locator(".markdown a");
  assert.equal(await link.getAttribute("href"), "https://example.com/a?b=c");
  assert.match(await link.getAttribute("rel"), /noopener/);
  await shot(page, "markdown");
  assert.deepEqual(complaints, []);
});

test("copies code", mock_only, async (t) => {
  const { page, context } = await open_page(t);
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await ask(page, "markdown");
  await page.locator("[data-copy]").click();
  await page.getByText("Copied").waitFor();
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^def read\(path: str\) -> str:\n    """Return/);
});

test("a hostile answer does nothing", mock_only, async (t) => {
  const { page, complaints } = await open_page(t);
  await ask(page, "attack");
  await page.waitForTimeout(300);
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  const inside = await page.evaluate(() => {
    const answer = document.querySelector(".markdown");
    const attributes = [...answer.querySelectorAll("*")].flatMap((e) => [...e.attributes].map((a) => `${a.name}=${a.value}`));
    return {
      forbidden: answer.querySelectorAll("script, style, img, iframe, object, embed, form, link, meta, base, svg").length,
      handlers: attributes.filter((a) => /^on|javascript:|data:|srcdoc|^style=/i.test(a) && !/^href=https/.test(a)),
      links: [...answer.querySelectorAll("a[href]")].map((a) => a.getAttribute("href")),
    };
  });
  assert.deepEqual(inside, { forbidden: 0, handlers: [], links: ["https://evil.example/leak?q=secret"] });
  const text = await page.locator(".markdown").innerText();
  assert.match(text, /Before <script>window.hacked = 1<\/script> after\./, "tags are shown as they were written");
  assert.match(text, /END$/);
  await page.locator(".markdown details summary").click();
  assert.equal(await page.locator(".markdown details sub").innerText(), "tags");
  await shot(page, "attack");
  assert.deepEqual(complaints, [], "nothing was tried that the security policy had to stop");
  await page.reload();
  await page.locator(".markdown details").waitFor();
  assert.equal(await page.evaluate(() => window.hacked), undefined);
});

test("texts meant to be slow or deep are shown in time", mock_only, async (t) => {
  const { page, mock } = await open_page(t);
  const texts = {
    quotes: ">".repeat(20_000) + " deep",
    dollars: "$a ".repeat(10_000),
    brackets: "\\[ ".repeat(10_000),
    links: "[".repeat(20_000),
    stars: "*a _b ".repeat(5_000),
    braces: "$" + "{".repeat(1_900) + "}".repeat(10) + "$ and $$" + "\\frac{".repeat(3_000) + "$$",
    loop: "$\\def\\a{\\a\\a}\\a$",
    surrogate: "$\ud83d$ lone",
  };
  for (const [name, text] of Object.entries(texts)) {
    mock.state.script = { text, delay: 20, size: Math.ceil(text.length / 20) };
    const begin = Date.now();
    await ask(page, name);
    const box = await page.locator("article.assistant").last().boundingBox();
    assert.ok(box.height > 20, name);
    assert.ok(Date.now() - begin < 5000, `${name}: ${Date.now() - begin} ms`);
  }
});
