// The token: asked for when the API says 401, kept for this tab only, sent in a header only.

import { hasToken, useToken } from "./api.js";
import { $, fill, h, icon, ICONS } from "./dom.js";
import { on } from "./state.js";

let box = null;
let declined = false; // somebody was asked and gave none: not again before he wants to

export function build() {
  const key = $("key");
  fill(key, icon(...ICONS.key));
  key.addEventListener("click", () => ask(hasToken() ? "This tab sends a token with each call." : "This tab sends no token."));
  on("unauthorized", (why) => declined || ask(why));
  on("token", () => (declined = false));
}

/** Ask for a token. why: what the API has said. */
function ask(why) {
  if (box) {
    box.querySelector(".reason").textContent = why;
    return;
  }
  const input = h("input", { type: "password", id: "token", autocomplete: "off", spellcheck: "false", "aria-describedby": "token-help", pattern: "\\s*[!-~]*\\s*", title: "letters, digits and signs of ASCII, without blanks" });
  const forget = h("button", { type: "button" }, "Forget it");
  forget.hidden = !hasToken();
  box = h(
    "dialog",
    { class: "box small", "aria-labelledby": "h-token" },
    h(
      "form",
      { method: "dialog" },
      h("h2", { id: "h-token" }, "Token of the API"),
      h("p", { class: "reason", role: "alert" }, why),
      h("div", { class: "field" }, h("label", { for: "token" }, "Token"), input, h("p", { class: "dim small", id: "token-help" }, "A line of the file of --admin-tokens. It is kept until this tab is closed, and sent in a header.")),
      h("div", { class: "row end" }, forget, h("button", { type: "button", class: "cancel" }, "Cancel"), h("button", { type: "submit", class: "primary", value: "use" }, "Use it")),
    ),
  );
  forget.addEventListener("click", () => {
    box.close("forget");
    useToken("");
  });
  box.querySelector(".cancel").addEventListener("click", () => box.close());
  box.addEventListener("close", () => {
    const value = box.returnValue === "use" ? input.value : "";
    const forgets = box.returnValue === "forget";
    box.remove();
    box = null;
    if (value.trim()) useToken(value);
    else declined = !forgets;
  });
  document.body.append(box);
  box.showModal();
  input.focus();
}
