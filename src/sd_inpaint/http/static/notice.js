// The one line that the page speaks in.

import { $ } from "./dom.js";

const SHOWN_MILLISECONDS = 8000; // what is only good to know
let topic, timer;

// Says something until something else is said; `action` is {text, act}.
export function say(text, { tone = "", action, topic: about } = {}) {
	topic = about;
	clearTimeout(timer);
	if (text && tone !== "wrong" && topic !== "health") timer = setTimeout(() => say(""), SHOWN_MILLISECONDS);
	if ($.message.textContent !== text) $.message.textContent = text; // said once to those who listen
	$.notice.className = tone;
	document.body.classList.toggle("has-words", Boolean(text));
	Object.assign($["notice-action"], { hidden: !action, textContent: action?.text ?? "", onclick: () => { say(""); action.act(); } });
}

export function warn(text, topic) {
	say(text, { tone: "wrong", topic });
}

// Takes the line away if it was about this.
export function settle(settled) {
	if (topic === settled) say("");
}
