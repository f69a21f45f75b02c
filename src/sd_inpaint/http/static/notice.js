// The one line that the page speaks in.

import { $ } from "./element.js";

let topic = "";

/**
 * Says something until something else is said.
 * @param {string} text nothing takes the line away
 * @param {{tone?: "wrong" | "good", topic?: string, action?: {text: string, act: () => void}}} options `topic` is for settle
 */
export function say(text, options = {}) {
  topic = options.topic ?? "";
  $("message").textContent = text;
  $("notice").className = options.tone ?? "";
  document.body.classList.toggle("has-words", Boolean(text));
  const button = $("notice-action");
  button.hidden = !options.action;
  button.textContent = options.action?.text ?? "";
  button.onclick = options.action ? () => { say(""); options.action.act(); } : null;
}

/** Takes the line away if it was about this. */
export function settle(...topics) {
  if (topics.includes(topic)) say("");
}
