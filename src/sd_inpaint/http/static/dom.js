// Elements: found, made, described to those who do not see them, and listened to.

// $.prompt is the element with that id.
export const $ = new Proxy({}, { get: (_, id) => document.getElementById(id) });
export const all = (selector) => document.querySelectorAll(selector);

export function element(kind, properties = {}, ...children) {
	const made = Object.assign(document.createElement(kind), properties);
	made.append(...children);
	return made;
}

// Sets attributes of ARIA; as properties not every browser has them.
export function aria(target, states) {
	for (const [name, value] of Object.entries(states)) target.setAttribute(`aria-${name}`, value);
}

// Listens to one event or several, "this that".
export function on(target, names, act) {
	for (const name of names.split(" ")) target.addEventListener(name, act);
}

// Where an arrow key points.
export const arrowOf = ({ key }) => ({ ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] })[key];

export const hasFingers = () => matchMedia("(pointer: coarse)").matches;
export const newKey = () => Math.random().toString(36).slice(2);

// Whether an event belongs to something that takes text.
export function takesText(target) {
	return target.matches?.("textarea, select, input:not([type=range], [type=checkbox], [type=file])") ?? false;
}

// Waits; refuses with an AbortError as soon as the signal says so.
export function pause(milliseconds, signal) {
	return new Promise((resolve, reject) => {
		signal?.throwIfAborted();
		const timer = setTimeout(resolve, milliseconds);
		signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); });
	});
}
