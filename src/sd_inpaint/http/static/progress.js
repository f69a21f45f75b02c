// How far a painting is: in words and a bar, and on the picture itself, within the frame that the model works in.

import { $ } from "./element.js";
import { Mask } from "./mask.js";
import { canvas } from "./picture.js";
import { explain, progress } from "./words.js";

const SHARPEST = 640; // pixels a side of the preview, which is a small picture enlarged

export class Progress {
	#region = null;
	#mask = null; // of the job, small
	#size = null;

	constructor(view) {
		this.view = view;
		view.addEventListener("change", () => this.#place());
	}

	async begin(request) {
		$("progress").hidden = false;
		$("asking").hidden = true;
		this.#region = this.#mask = null;
		this.say("Sending the picture");
		const { size, marks } = request.document, mask = new Mask(size, marks.map((mark) => ({ ...mark })));
		await mask.restore();
		const share = Math.min(1, 1024 / Math.max(...size));
		const small = canvas(size[0] * share, size[1] * share);
		small.getContext("2d").drawImage(mask.canvas, 0, 0, small.width, small.height);
		[this.#mask, this.#size] = [small, size];
	}

	end() {
		$("progress").hidden = $("preview").hidden = $("region").hidden = true;
		$("asking").hidden = false;
		this.#region = this.#mask = null;
		document.title = "Inpaint";
	}

	// Shows an event of the job's; `isSeen` says whether its picture is on the stage.
	async show(name, data, isSeen) {
		if (name === "upload") this.say(data.share < 1 ? `Sending the picture, ${Math.round(data.share * 100)} %` : "The server reads the picture", data.share < 1 ? data.share : null);
		else if (name === "busy") this.say(`${explain(data.error)} Trying again in ${data.seconds} s.`);
		else if (name === "lost") this.say("Connection lost. Trying again…");
		else if (name === "accepted") this.say("About to begin");
		else if (name === "preview") await this.#preview(data);
		else this.say(progress(data), data.step > 0 ? data.step / data.steps : null);
		this.isSeen = isSeen;
		this.#place();
	}

	say(text, share = null) {
		$("step").textContent = text;
		document.title = `${text} · Inpaint`;
		if (share === null) $("bar").removeAttribute("value");
		else $("bar").value = share;
	}

	async #preview({ image: address, region }) {
		const image = new Image();
		image.src = address;
		await image.decode();
		if (!this.#mask || !region) return;
		const [left, top, right, bottom] = region, width = right - left, height = bottom - top;
		const share = Math.min(1, SHARPEST / Math.max(width, height)), drawn = $("preview"), context = drawn.getContext("2d");
		[drawn.width, drawn.height] = [Math.ceil(width * share), Math.ceil(height * share)];
		context.imageSmoothingQuality = "high";
		context.drawImage(image, 0, 0, drawn.width, drawn.height);
		// What is kept stays sharp.
		context.globalCompositeOperation = "destination-in";
		context.drawImage(this.#mask, -left * share, -top * share, this.#size[0] * share, this.#size[1] * share);
		this.#region = region;
	}

	#place() {
		const isShown = Boolean(this.#region && this.isSeen);
		$("preview").hidden = $("region").hidden = !isShown;
		if (!isShown) return;
		const [left, top, right, bottom] = this.#region, [width, height] = this.#size;
		this.view.place($("preview"), [left, top, right - left, bottom - top]);
		this.view.place($("region"), [left, top, Math.min(right, width) - left, Math.min(bottom, height) - top]);
	}
}
