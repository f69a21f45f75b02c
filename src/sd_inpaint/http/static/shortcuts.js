// Keys: what each does, and the list of them.

import { $, element, takesText } from "./element.js";

const COMMAND = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘" : "Ctrl";

// Listens for keys.
export function listen(shortcuts) {
	const acts = new Map(shortcuts.map(([keys, , act]) => [keys, act]));
	addEventListener("keydown", (event) => {
		if (event.altKey || document.querySelector("dialog[open]")) return;
		const isCommand = event.ctrlKey || event.metaKey, key = event.key.toLowerCase();
		// While typing, only commands; and undo, redo and copy are the text's own then.
		if (takesText(event.target) && (!isCommand || ["z", "y", "c"].includes(key)) && key !== "escape") return;
		// Letters have their shift in themselves: "?" and "+" are what was typed.
		const name = `${isCommand ? "mod+" : ""}${event.shiftKey && (isCommand || key.length > 1) ? "shift+" : ""}${key}`;
		const act = acts.get(name);
		if (!act) return;
		// A button in focus has its own use for these.
		if ((key === "enter" || key === " ") && !isCommand && event.target.matches("button, summary, a, input")) return;
		if (act(event) !== false) event.preventDefault();
	});
	$("shortcut-list").replaceChildren(...shortcuts.filter(([, text]) => text).flatMap(([keys, text]) => [
		element("dt", {}, ...spelled(keys)), element("dd", { textContent: text }),
	]));
}

function spelled(keys) {
	const names = { mod: COMMAND, shift: "Shift", escape: "Esc", delete: "Delete", enter: "Enter", " ": "Space", arrowleft: "←", arrowright: "→" };
	return keys.split(/\+(?=.)/).flatMap((key, i) => [...(i ? [" "] : []), element("kbd", { textContent: names[key] ?? key.toUpperCase() })]);
}
