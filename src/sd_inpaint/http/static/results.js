// The session's results, as a strip: each knows its prompt, its seed, and the picture and mask that it came from.

import { $, aria, element, newKey } from "./dom.js";
import { Picture, decode, drawing, stemOf, toFile } from "./picture.js";

const MOST_RESULTS = 24;

export class Results {
	all = []; // newest first; those of one job in their order
	chosen;
	#unseen = new Set();

	constructor(onChoose) {
		this.onChoose = onChoose;
	}

	// Takes the files of a job; the first of them is returned.
	async add(request, files) {
		const made = [];
		for (const [index, { file, seed }] of files.entries()) {
			const picture = await Picture.open({ file });
			made.push({ key: newKey(), file, seed, request, index, count: files.length, thumbnail: picture.thumbnail });
			this.#unseen.add(made[index].key);
		}
		this.restore([...made, ...this.all].slice(0, MOST_RESULTS));
		return made[0];
	}

	restore(all) {
		this.all = all;
		this.#draw();
	}

	choose(result) {
		this.chosen = result;
		this.#unseen.delete(result?.key);
		this.#draw();
	}

	// The one beside the chosen one.
	neighbour(step) {
		return this.all[this.all.indexOf(this.chosen) + step];
	}

	#draw() {
		$.strip.hidden = !this.all.length;
		const items = $.results, held = document.activeElement?.dataset.result;
		items.replaceChildren(...this.all.map((result) => {
			const { key, thumbnail, index, count } = result, title = describe(result);
			const button = element("button", { title, className: this.#unseen.has(key) ? "new" : "", onclick: () => this.onChoose(result) }, element("img", { src: thumbnail, alt: "" }));
			button.dataset.result = key;
			aria(button, { label: count > 1 ? `${title}, ${index + 1} of ${count}` : title, current: result === this.chosen });
			return element("li", {}, button);
		}));
		if (held) items.querySelector(`[data-result="${held}"]`)?.focus();
		items.querySelector("[aria-current=true]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
	}
}

// A result in words.
export const describe = ({ request: { values: { prompt } }, seed }) => `${prompt ? `“${prompt}”` : "Removal"}, seed ${seed}`;

// A result in a format, under its picture's own name.
export async function fileOf({ file, count, request }, format, service) {
	const named = (made) => ({ file: made, name: `${stemOf(request.document.name)}.${format === "jpeg" ? "jpg" : format}` });
	if (format === "png") return named(file);
	if (count === 1 && request.id) {
		// The service keeps colour profiles; a canvas does not.
		try {
			return named(await service.resultAs(request.id, format));
		} catch {
			// It keeps results for a while only.
		}
	}
	const whole = await decode(file), size = [whole.naturalWidth, whole.naturalHeight], context = drawing(...size);
	if (format === "jpeg") {
		context.fillStyle = "white";
		context.fillRect(0, 0, ...size);
	}
	context.drawImage(whole, 0, 0);
	return named(await toFile(context.canvas, `image/${format}`, 0.92));
}

export function save(file, name) {
	const link = element("a", { href: URL.createObjectURL(file), download: name });
	link.click();
	setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
