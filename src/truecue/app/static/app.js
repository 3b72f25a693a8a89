// Keys for judging, the slider of rankings, and pictures fetched ahead. Everything that these do can
// be done without them: pages are plain links and forms.
"use strict";

const typing = (target) =>
  target.matches("textarea, select, input:not([type=radio]):not([type=range])");

const complete = (form) =>
  ["answer", "confidence"].every((name) => form.querySelector(`[name=${name}]:checked`)) &&
  form.elements.reason.value.trim() !== "";

// The button is off until all three questions are answered; the server refuses the rest anyway.
function refresh() {
  const form = document.querySelector("form[data-answer]");
  if (form) form.querySelector("[data-submit]").disabled = !complete(form);
}

function press(element) {
  if (element.matches("[type=radio]")) {
    element.checked = true;
    element.dispatchEvent(new Event("change", { bubbles: true }));
    element.scrollIntoView({ block: "nearest" });
  } else if (element.matches("textarea")) {
    element.focus();
    element.setSelectionRange(element.value.length, element.value.length);
  } else if (!element.disabled) {
    element.click();
  }
}

function toggle(details) {
  if (details) details.open = !details.open;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat) return;
  const form = document.querySelector("form[data-answer]");
  const { target, key } = event;
  if (typing(target)) {
    if (key === "Escape") {
      target.blur();
      event.preventDefault();
    } else if (form && key === "Enter" && !event.shiftKey && target.matches("textarea")) {
      event.preventDefault();
      refresh();
      const submit = form.querySelector("[data-submit]");
      // htmx would put the cursor into the next question's text, where keys are letters
      if (!submit.disabled) target.blur();
      press(submit);
    }
    return;
  }
  const wanted = key.length === 1 ? key.toLowerCase() : key;
  if (form && wanted === "Enter" && !target.matches("button, a, summary")) {
    event.preventDefault();
    press(form.querySelector("[data-submit]"));
  } else if (document.querySelector("[data-amplified]") && wanted === " " && !target.matches("button, summary, [type=radio]")) {
    event.preventDefault();
    toggle(document.querySelector("[data-amplified]"));
  } else if (wanted === "h" && document.querySelector("[data-rows]")) {
    document.querySelector("[data-rows]").classList.toggle("swapped");
  } else if (wanted === "?") {
    toggle(document.querySelector("#help"));
    const help = document.querySelector("#help[open]");
    if (help) help.scrollIntoView({ block: "nearest" });
  } else {
    const element = /^[a-z1-5]$/.test(wanted) && document.querySelector(`[data-key="${wanted}"]`);
    if (!element) return;
    event.preventDefault();
    press(element);
  }
});

document.addEventListener("input", (event) => {
  refresh();
  const walk = event.target.closest("form[data-walk]");
  if (walk) walk.querySelector("output").textContent = Number(event.target.value).toLocaleString("en");
});

document.addEventListener("change", (event) => {
  refresh();
  const walk = event.target.closest("form[data-walk]");
  if (walk) walk.requestSubmit();
});

// A form that is on its way is not sent twice.
let sending = false;
document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.detail.requestConfig.verb !== "post") return;
  if (sending) event.preventDefault();
  sending = true;
});
document.addEventListener("htmx:afterRequest", () => { sending = false; });
document.addEventListener("htmx:sendError", () => {
  const note = document.createElement("p");
  note.className = "note bad";
  note.setAttribute("role", "alert");
  note.textContent = "The app does not answer; nothing was stored. What you filled in is still here.";
  document.querySelector("#main").prepend(note);
});

function ready() {
  refresh();
  const judge = document.querySelector("[data-judge]");
  for (const address of (judge ? judge.dataset.prefetch.split(" ") : []).filter(Boolean))
    new Image().src = address;
}
document.addEventListener("htmx:afterSettle", () => {
  ready();
  const current = document.querySelector("[data-current]");
  if (current) current.scrollIntoView({ block: "nearest" });
});
ready();
