// The chat at /, as one uses it.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import {
  answered, answers, ask, close_browser, drawn, mock_only, open_browser, open_page, questions, real_url, shot, start_asking, until, with_base,
} from "./browser.mjs";

before(open_browser);
after(close_browser);

const long_question = real_url ? "Write a very long story." : "Go on forever";

test("sends, streams the answer and shows its figures", async (t) => {
  const { page, mock, complaints } = await open_page(t);
  await start_asking(page, mock ? "a long one" : "Hello");
  if (mock) {
    await page.getByText("Paragraph 2 of a long answer").waitFor();
    assert.equal(await page.getByText("Paragraph 60 of").count(), 0, "the answer is seen while it comes");
  }
  await answered(page);
  assert.match(await page.locator("article.assistant .figures").innerText(), /\d+ tokens?.*tokens\/s/s);
  if (mock) {
    assert.match(await page.locator("article.assistant .figures").innerText(), /drafts 71% accepted.*prompt 1,024 \(896 cached\)/s);
    assert.equal(mock.state.requests[0].stream, true);
    assert.deepEqual(mock.state.requests[0].stream_options, { include_usage: true });
    assert.equal("temperature" in mock.state.requests[0], false, "what is not set is left to the server");
    const end = await page.locator(".scroll").evaluate((box) => box.scrollHeight - box.scrollTop - box.clientHeight);
    assert.ok(end < 48, "the end of the answer is in sight");
  }
  await shot(page, "answer");
  assert.deepEqual(complaints, []);
});

/// Asks, and presses the button or the key when the page shows something to stop: in the page, because a small model is
/// done before a test has seen that it began. Asks again where the answer was complete by then.
async function ask_and_stop(page, how) {
  const stopped = page.getByText("Stopped."), before = await stopped.count();
  for (let i = 0; i < 10 && (await stopped.count()) === before; ++i) {
    const pressed = page.evaluate(([by, count]) => new Promise((done) => {
      const look = () => {
        const button = document.querySelector("button[aria-label=Stop]");
        const is_written = document.querySelectorAll("article.assistant .markdown").length > count;
        if (is_written && !button) return done();
        if (!is_written) return requestAnimationFrame(look);
        if (by === "button") button.click();
        else document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
        done();
      };
      look();
    }), [how, await page.locator("article.assistant .markdown").count()]);
    await start_asking(page, long_question);
    await pressed;
    await answered(page);
  }
  assert.equal(await stopped.count(), before + 1);
}

test("stops, by button and by Esc, and the server notices", async (t) => {
  const { page, mock, complaints } = await open_page(t);
  await ask_and_stop(page, "button");
  const kept = (await answers(page)).at(-1);
  assert.ok(kept.length > 0, "what had come is kept");
  await page.waitForTimeout(300);
  assert.equal((await answers(page)).at(-1), kept, "nothing comes after it");
  await ask_and_stop(page, "Esc");
  if (mock) {
    await until(() => mock.state.aborted === 2);
    assert.equal(mock.state.aborted, 2);
  }
  assert.deepEqual(complaints, []);
});

test("keeps conversations across a reload, renames, deletes and brings back", async (t) => {
  const { page } = await open_page(t);
  await ask(page, "First question");
  const first = await answers(page);
  await page.locator(".new").click();
  await drawn(page);
  assert.equal(await page.locator("article").count(), 0);
  await ask(page, "Second question");
  await page.reload();
  assert.deepEqual((await page.locator("article.user .said").waitFor(), await questions(page)), ["Second question"]);
  await page.locator(".entry .open", { hasText: "First question" }).click();
  await page.locator("article.user", { hasText: "First question" }).waitFor();
  assert.deepEqual(await answers(page), first);

  await page.getByRole("button", { name: "Rename First question" }).click();
  await page.getByRole("textbox", { name: "Title" }).fill("A better name");
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Delete A better name" }).click();
  await page.locator(".entry").nth(1).waitFor({ state: "detached" });
  await page.getByRole("button", { name: "Undo" }).click();
  await page.locator("article.user", { hasText: "First question" }).waitFor();
  await page.reload();
  await page.locator(".entry").nth(1).waitFor();
  assert.deepEqual(await page.locator(".entry .open").allInnerTexts(), ["A better name", "Second question"]);
  await page.locator(".entry", { hasText: "Second question" }).hover();
  await page.getByRole("button", { name: "Delete Second question" }).click();
  await page.locator(".entry").nth(1).waitFor({ state: "detached" });
  await page.reload();
  await page.locator(".entry").waitFor();
  assert.deepEqual(await page.locator(".entry .open").allInnerTexts(), ["A better name"]);
});

test("a reload in mid-stream keeps what had come", async (t) => {
  const { page } = await open_page(t);
  await start_asking(page, long_question);
  await page.waitForFunction(() => document.querySelector("article.assistant .markdown")?.textContent.length > 40);
  await page.reload();
  await page.locator("article.assistant .markdown").waitFor();
  assert.ok((await answers(page))[0].length > 20);
  await page.getByRole("button", { name: "Send" }).waitFor();
});

test("regenerates an answer and edits messages", async (t) => {
  const { page, mock } = await open_page(t);
  await ask(page, "Question one");
  await ask(page, "Question two");
  const before = await answers(page);
  await page.locator("article.assistant").last().getByRole("button", { name: "Regenerate" }).click();
  await answered(page);
  assert.equal((await questions(page)).length, 2);
  if (mock) {
    assert.notEqual((await answers(page))[1], before[1]);
    assert.deepEqual(mock.state.requests[2].messages, mock.state.requests[1].messages, "the same is asked again");
  }
  await page.locator("article.user").first().hover();
  await page.locator("article.user").first().getByRole("button", { name: "Edit" }).click();
  await page.getByRole("textbox", { name: "Edit the message" }).fill("Question three");
  await page.keyboard.press("Enter");
  await answered(page);
  assert.deepEqual(await questions(page), ["Question three"], "what came after it is gone");
  await page.locator("article.assistant").getByRole("button", { name: "Edit" }).click();
  await page.getByRole("textbox", { name: "Edit the message" }).fill("My own answer");
  await page.getByRole("button", { name: "Save" }).click();
  await drawn(page);
  assert.deepEqual(await answers(page), ["My own answer"]);
  await page.reload();
  await page.locator("article.assistant .markdown").waitFor();
  assert.deepEqual(await answers(page), ["My own answer"]);
  if (mock) {
    await ask(page, "And now?");
    assert.deepEqual(mock.state.requests.at(-1).messages, [
      { role: "user", content: "Question three" },
      { role: "assistant", content: "My own answer" },
      { role: "user", content: "And now?" },
    ]);
  }
});

test("sends the system prompt and the settings of the conversation", mock_only, async (t) => {
  const { page, mock } = await open_page(t);
  await page.getByRole("button", { name: "Settings" }).click();
  await page.getByLabel("System prompt").fill("Be brief.");
  await page.getByLabel("Temperature").fill("0.7");
  await page.getByLabel("Top p").fill("3");  // not a probability
  await page.getByLabel("Max tokens").fill("200");
  await page.getByLabel("Seed").fill("42");
  assert.equal(await page.getByLabel("Top p").getAttribute("aria-invalid"), "true");
  await shot(page, "settings");
  await page.keyboard.press("Escape");
  await ask(page, "Hello");
  const { messages, temperature, top_p, max_tokens, seed } = mock.state.requests[0];
  assert.deepEqual(messages[0], { role: "system", content: "Be brief." });
  assert.deepEqual([temperature, top_p, max_tokens, seed], [0.7, undefined, 200, 42]);
  await page.reload();
  await page.getByRole("button", { name: "Settings" }).click();
  assert.equal(await page.getByLabel("Temperature").inputValue(), "0.7");
});

test("folds thinking away", mock_only, async (t) => {
  const { page, mock } = await open_page(t);
  await start_asking(page, "think about it");
  await page.locator(".thinking summary", { hasText: "Thinking" }).waitFor();
  await answered(page);
  assert.match(await page.locator(".thinking summary").innerText(), /^Thought for \d+ s$/);
  assert.equal(await page.getByText("The user wants a number.").isVisible(), false);
  await page.locator(".thinking summary").click();
  assert.equal(await page.getByText("The user wants a number.").isVisible(), true);
  await ask(page, "and then?");
  assert.equal(mock.state.requests[1].messages[1].content, "The answer is **42**.", "thinking is not sent back");
});

test("shows the server's errors plainly", mock_only, async (t) => {
  const { page, mock } = await open_page(t);
  const error = () => page.locator("article.assistant .error").last();
  await ask(page, "refuse this");
  assert.match(await error().innerText(), /maximum context length is 4096 tokens/);
  await shot(page, "error");
  await ask(page, "break off");
  assert.match(await error().innerText(), /broke off|before it was complete/);
  assert.match((await answers(page)).at(-1), /^Half of an/);
  await ask(page, "fail later");
  assert.match(await error().innerText(), /The model produced NaN/);
  await ask(page, "limit");
  await page.getByText("Ended at the limit of tokens.").waitFor();
  mock.close();
  await ask(page, "anybody there?");
  assert.match(await error().innerText(), /cannot be reached/);
});

test("asks for the API key where the server wants one, and waits while it loads", mock_only, async (t) => {
  const { page, mock } = await open_page(t, { mock: { key: "secret", loading: 1 } });
  await page.getByText("This server wants an API key.").waitFor();
  await page.getByLabel("API key").fill("secret");
  await page.getByRole("button", { name: "Use" }).click();
  await page.getByText("The model is being loaded.").waitFor();
  await ask(page, "Hello");
  assert.equal(mock.state.requests.length, 1);
  await page.reload();
  await ask(page, "Still known?");
});

test("a base model continues a text", with_base, async (t) => {
  const { page, mock, complaints } = await open_page(t, { base: true });
  await page.getByText("is a base model").waitFor();
  const input = page.getByLabel("Text to continue"), mark = page.locator(".mirror mark");
  const begun = "It was a dark night";
  const written = () => page.getByRole("button", { name: "Take back" }).waitFor();
  await input.fill(begun);
  await page.getByRole("button", { name: "Continue" }).click();
  await written();
  const first = await mark.textContent();
  assert.ok(first.length > 0);
  assert.equal(await input.inputValue(), begun + first);
  assert.match(await page.locator(".run-figures").innerText(), /tokens\/s/);
  await shot(page, "base");
  await page.getByRole("button", { name: "Again" }).click();
  await drawn(page);
  await written();
  assert.equal(await input.inputValue(), begun + (await mark.textContent()), "it begins anew where the first began");
  if (mock) {
    assert.equal(first, " and so it went on, line 19, until the rain came.");
    assert.deepEqual(mock.state.requests.map((r) => [r.prompt, r.max_tokens]), [[begun, 256], [begun, 256]]);
  }
  await page.getByRole("button", { name: "Take back" }).click();
  await page.getByRole("button", { name: "Take back" }).waitFor({ state: "detached" });
  assert.equal(await input.inputValue(), begun);
  await input.fill("Something else");
  await page.keyboard.press("Control+Enter");
  await drawn(page);
  await written();
  const second = await mark.textContent();
  await page.reload();
  await page.locator(".mirror", { hasText: "Something else" }).waitFor();
  assert.equal(await input.inputValue(), "Something else" + second);
  assert.deepEqual(complaints, []);
});

test("everything is done by keyboard alone", async (t) => {
  const { page, mock } = await open_page(t);
  await page.locator(".model:not(:empty)").waitFor();
  const focused = () => page.evaluate(() => document.activeElement.getAttribute("aria-label") ?? document.activeElement.textContent);
  const tab_to = async (name, key = "Tab") => {
    for (let i = 0; i < 40; ++i) {
      if ((await focused()).trim() === name) return;
      await page.keyboard.press(key);
    }
    assert.fail(`${name} cannot be reached by ${key}`);
  };
  assert.equal(await focused(), "Message", "one can write at once");
  await page.keyboard.type("line one");
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.type("line two");
  await page.keyboard.press("Enter");
  await answered(page);
  assert.deepEqual(await questions(page), ["line one\nline two"]);
  assert.equal(await focused(), "Message");
  await tab_to("Regenerate", "Shift+Tab");
  await page.keyboard.press("Enter");
  await answered(page);
  assert.equal(await focused(), "Message");
  await tab_to("Settings", "Shift+Tab");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  assert.equal(await focused(), "Settings", "the focus is back where it was");
  await tab_to("Rename line one", "Shift+Tab");
  await page.keyboard.press("Enter");
  await page.keyboard.type("named");
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "Rename line one" }).waitFor();
  await tab_to("Delete line one");
  await page.keyboard.press("Enter");
  await page.locator(".entry").waitFor({ state: "detached" });
  await tab_to("Undo");
  await page.keyboard.press("Enter");
  await page.locator("article.user").waitFor();
  if (mock) assert.equal(mock.state.requests.length, 2);
});

test("fits a phone", async (t) => {
  const phone = { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 };
  const { page, mock } = await open_page(t, { context: phone });
  await page.locator(".model:not(:empty)").waitFor();
  await page.locator("#input").fill(mock ? "markdown" : "Hello");
  await page.getByRole("button", { name: "Send" }).tap();
  await answered(page);
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
  const wide = await page.evaluate(() => [...document.querySelectorAll(".main *")].filter((e) => {
    const box = e.getBoundingClientRect();
    return box.right > 361 && !e.closest("pre, .table, .display, .hidden");
  }).map((e) => e.outerHTML.slice(0, 80)));
  assert.deepEqual(wide, []);
  await shot(page, "phone");
  const send = await page.locator(".send").boundingBox();
  assert.ok(send.y + send.height <= 740 && send.width >= 32, "the button is on the screen");
  assert.equal(await page.getByRole("complementary", { name: "Conversations" }).isVisible(), false);
  await page.getByRole("button", { name: "Conversations" }).tap();
  await page.getByRole("complementary", { name: "Conversations" }).waitFor();
  await shot(page, "phone_drawer");
  await page.getByRole("complementary").getByRole("button", { name: "New conversation" }).tap();
  await drawn(page);
  assert.equal(await page.locator("article").count(), 0);
});

test("is light or dark as the system, or as chosen", async (t) => {
  const { page } = await open_page(t, { context: { colorScheme: "dark" } });
  const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await page.locator(".model:not(:empty)").waitFor();
  const dark = await background();
  await shot(page, "dark");
  await page.emulateMedia({ colorScheme: "light" });
  const light = await background();
  assert.notEqual(dark, light);
  await page.getByRole("button", { name: "Colours: system" }).click();
  await page.getByRole("button", { name: "Colours: light" }).click();
  assert.equal(await background(), dark);
  await page.reload();
  assert.equal(await background(), dark, "the choice is kept");
  await page.getByRole("button", { name: "Colours: dark" }).click();
  assert.equal(await background(), light);
});
