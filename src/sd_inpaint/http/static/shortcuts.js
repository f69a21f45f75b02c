// Keys: what each does, and the list of them.

import { $, all, element, on, takesText } from "./dom.js";
import { capital } from "./words.js";

const NAMES = { ctrl: /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘" : "Ctrl", left: "←", right: "→" };

// Listens for keys, [keys, text, act], and for those that the buttons have in their titles.
export function listen(shortcuts) {
	const taken = new Set(shortcuts.map(([keys]) => keys)), known = [...ofButtons().filter(([keys]) => !taken.has(keys)), ...shortcuts];
	on(window, "keydown", (event) => {
		if (event.altKey || document.querySelector("dialog[open]")) return;
		const isCommand = event.ctrlKey || event.metaKey, key = event.key.toLowerCase().replace(/^arrow|ape$/, ""); // "left", "esc"
		// While typing, only commands; and undo, redo and copy are the text's own then.
		if (takesText(event.target) && (!isCommand || ["z", "y", "c"].includes(key)) && key !== "esc") return;
		// Letters have their shift in themselves: "?" and "+" are what was typed.
		const name = `${isCommand ? "ctrl+" : ""}${event.shiftKey && (isCommand || key.length > 1) ? "shift+" : ""}${key}`;
		const [, , act] = known.find(([keys]) => keys === name) ?? [];
		if (act && act() !== false) event.preventDefault();
	});
	$["shortcut-list"].append(...known.filter(([, text]) => text).flatMap(([keys, text]) => [element("dt", {}, ...spelled(keys)), element("dd", { textContent: text })]));
}

// "Undo (Ctrl+Z)" is pressed by Ctrl+Z, wherever it is in view.
const ofButtons = () => [...all("[data-icon][title$=')']")].map((button) => {
	const [, text, keys] = button.title.match(/(.+) \((.+)\)/);
	return [keys.toLowerCase(), text, () => !button.closest("[hidden]") && button.click()];
});

const spelled = (keys) => keys.split(/\+(?=.)/).flatMap((key) => [element("kbd", { textContent: NAMES[key] ?? capital(key) }), " "]).slice(0, -1);
