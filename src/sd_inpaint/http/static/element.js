// Elements: found by id, and made.

export const $ = (id) => document.getElementById(id);

export function element(kind, properties = {}, ...children) {
	const made = Object.assign(document.createElement(kind), properties);
	made.append(...children);
	return made;
}

// Whether an event belongs to something that takes text.
export function takesText(target) {
	return target.matches?.("textarea, select, input:not([type=range], [type=checkbox], [type=file])") ?? false;
}

// Waits; refuses with an AbortError as soon as the signal says so.
export function pause(milliseconds, signal) {
	return new Promise((resolve, reject) => {
		signal?.throwIfAborted();
		const timer = setTimeout(resolve, milliseconds);
		signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
	});
}
