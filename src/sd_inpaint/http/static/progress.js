// How far a painting is: in words and a bar, and on the picture itself, within the frame that the model works in.

import { $, on } from "./dom.js";
import { Mask } from "./mask.js";
import { resize, scaled } from "./picture.js";
import { explain, progress } from "./words.js";

const SHARPEST = 640; // pixels a side of the preview, which is a small picture enlarged

export class Progress {
	isSeen = false; // whether the job's picture is on the stage
	#region;
	#mask; // of the job, small
	#size;

	constructor(view) {
		this.view = view;
		on(view, "change", () => this.#place());
	}

	async begin({ document: { size, marks } }) {
		this.#toggle(true);
		this.#say("Sending the picture");
		const mask = new Mask(size, marks.map((mark) => ({ ...mark })));
		await mask.restore();
		const share = Math.min(1, 1024 / Math.max(...size));
		this.#size = size;
		this.#mask = scaled(mask.canvas, size[0] * share, size[1] * share);
	}

	end() {
		this.#toggle(false);
		$.preview.hidden = $.region.hidden = true;
		document.title = "Inpaint";
	}

	#toggle(isBusy) {
		$.progress.hidden = !isBusy;
		$.asking.hidden = isBusy;
		this.#region = this.#mask = null;
	}

	// Shows an event of the job's.
	async show(name, data) {
		const { share, step, steps } = data;
		if (name === "upload") this.#say(share < 1 ? `Sending the picture, ${Math.round(share * 100)} %` : "The server reads the picture", share < 1 ? share : null);
		else if (name === "busy") this.#say(`${explain(data.error)} Trying again in ${data.seconds} s.`);
		else if (name === "lost") this.#say("Connection lost. Trying again…");
		else if (name === "preview") await this.#preview(data);
		else this.#say(progress(data), step > 0 ? step / steps : null);
		this.#place();
	}

	#say(text, share = null) {
		$.step.textContent = text;
		document.title = `${text} · Inpaint`;
		if (share === null) $.bar.removeAttribute("value");
		else $.bar.value = share;
	}

	async #preview({ image: address, region }) {
		const image = new Image();
		image.src = address;
		await image.decode();
		if (!this.#mask || !region) return;
		const [left, top, right, bottom] = region, [width, height] = this.#size, share = Math.min(1, SHARPEST / Math.max(right - left, bottom - top));
		const canvas = resize($.preview, Math.ceil((right - left) * share), Math.ceil((bottom - top) * share)), context = canvas.getContext("2d");
		context.imageSmoothingQuality = "high";
		context.drawImage(image, 0, 0, canvas.width, canvas.height);
		// What is kept stays sharp.
		context.globalCompositeOperation = "destination-in";
		context.drawImage(this.#mask, -left * share, -top * share, width * share, height * share);
		this.#region = region;
	}

	#place() {
		const isShown = Boolean(this.#region && this.isSeen);
		$.preview.hidden = $.region.hidden = !isShown;
		if (!isShown) return;
		const [left, top, right, bottom] = this.#region, [width, height] = this.#size;
		this.view.place($.preview, [left, top, right - left, bottom - top]);
		this.view.place($.region, [left, top, Math.min(right, width) - left, Math.min(bottom, height) - top]);
	}
}
