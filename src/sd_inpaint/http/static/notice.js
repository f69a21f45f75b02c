// The one line that the page speaks in.

import { $ } from "./element.js";

const SHOWN_MILLISECONDS = 8000; // what is only good to know
let topic = "", timer = null;

// Says something until something else is said.
export function say(text, options = {}) {
	topic = options.topic ?? "";
	clearTimeout(timer);
	if (text && options.tone !== "wrong" && topic !== "health") timer = setTimeout(() => say(""), SHOWN_MILLISECONDS);
	if ($("message").textContent !== text) $("message").textContent = text; // said once to those who listen
	$("notice").className = options.tone ?? "";
	document.body.classList.toggle("has-words", Boolean(text));
	const button = $("notice-action");
	button.hidden = !options.action;
	button.textContent = options.action?.text ?? "";
	button.onclick = options.action ? () => { say(""); options.action.act(); } : null;
}

// Takes the line away if it was about this.
export function settle(...topics) {
	if (topics.includes(topic)) say("");
}
