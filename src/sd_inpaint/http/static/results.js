// The session's results, as a strip: each knows its prompt, its seed, and the picture and mask that it came from.

import { $, element } from "./element.js";
import { Picture, canvas, toFile } from "./picture.js";

const MOST_RESULTS = 24;
const SUFFIXES = { png: "png", jpeg: "jpg", webp: "webp" };


export class Results extends EventTarget {
	all = []; // newest first; those of one job in their order
	chosen = null;
	#unseen = new Set();

	// Takes the files of a job; the first of them is returned.
	async add(request, files) {
		const made = [];
		for (const [index, { file, seed }] of files.entries()) {
			const picture = await Picture.open({ file, shown: file, name: request.document.name });
			const key = Math.random().toString(36).slice(2);
			made.push({ key, file, seed, request, index, count: files.length, thumbnail: picture.thumbnail() });
			this.#unseen.add(key);
		}
		this.all = [...made, ...this.all].slice(0, MOST_RESULTS);
		this.draw();
		return made[0];
	}

	restore(all) {
		this.all = all;
		this.draw();
	}

	choose(result) {
		this.chosen = result;
		if (result) this.#unseen.delete(result.key);
		this.draw();
	}

	// The one beside the chosen one.
	neighbour(step) {
		return this.all[this.all.indexOf(this.chosen) + step] ?? null;
	}

	draw() {
		$("strip").hidden = !this.all.length;
		const items = $("results"), held = document.activeElement?.dataset?.result;
		items.replaceChildren(...this.all.map((result) => {
			const { prompt, negative_prompt: _ } = result.request.values, words = prompt ? `“${prompt}”` : "Removal";
			const which = result.count > 1 ? `, ${result.index + 1} of ${result.count}` : "";
			const image = element("img", { src: result.thumbnail, alt: "" });
			const button = element("button", { type: "button", title: `${words}, seed ${result.seed}`, className: this.#unseen.has(result.key) ? "new" : "" }, image);
			button.dataset.result = result.key;
			button.setAttribute("aria-label", `${words}, seed ${result.seed}${which}`);
			if (result === this.chosen) button.setAttribute("aria-current", "true");
			button.addEventListener("click", () => this.dispatchEvent(new CustomEvent("choose", { detail: result })));
			return element("li", {}, button);
		}));
		if (held) items.querySelector(`[data-result="${held}"]`)?.focus();
		items.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
	}
}

// A result in a format, under its picture's own name.
export async function fileOf(result, format, service) {
	const stem = (result.request.document.name || "picture").replace(/\.[^.]*$/, "") || "picture";
	const name = `${stem}.${SUFFIXES[format]}`;
	if (format === "png") return { file: result.file, name };
	if (result.count === 1 && result.request.id) {
		// The service keeps colour profiles; a canvas does not.
		try {
			return { file: await service.resultAs(result.request.id, format), name };
		} catch {
			// It keeps results for a while only.
		}
	}
	const { levels: [whole] } = await Picture.open({ file: result.file, shown: result.file });
	if (format === "jpeg") return { file: await toFile(onWhite(whole), "image/jpeg", 0.92), name };
	return { file: await toFile(whole, `image/${format}`, 0.92), name };
}

function onWhite(source) {
	const opaque = canvas(source.width, source.height), context = opaque.getContext("2d");
	context.fillStyle = "white";
	context.fillRect(0, 0, opaque.width, opaque.height);
	context.drawImage(source, 0, 0);
	return opaque;
}

export function save(file, name) {
	const link = element("a", { href: URL.createObjectURL(file), download: name });
	link.click();
	setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
