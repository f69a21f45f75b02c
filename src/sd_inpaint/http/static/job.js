// One painting: sent, waited for where the server is busy, followed, and fetched. It has its own picture and mask.

import { pause } from "./dom.js";

export class Job {
	#abort = new AbortController();

	// `request` belongs to one painting from the press of the button on, and can be stored; `onEvent` gets the name and the data of each event.
	constructor(service, request, onEvent) {
		Object.assign(this, { service, request, onEvent });
	}

	// Runs to the end: the painted files, as {file, seed}; null if it was cancelled; throws what went wrong.
	async run() {
		const { service, request, onEvent } = this, { signal } = this.#abort;
		try {
			if (!request.id) {
				const form = formOf(request), onUpload = (share) => onEvent("upload", { share });
				({ id: request.id } = await this.#insist(() => service.submit(form, request.key, onUpload, signal)));
				onEvent("accepted", {});
			}
			const { state, error } = await service.follow(request.id, onEvent, signal);
			if (state === "cancelled") return null;
			if (state === "failed") throw Object.assign(new Error(error.error), { code: error.code, facts: error });
			return await this.#insist(() => service.result(request.id, Number(request.values.num_images ?? 1)));
		} catch (error) {
			if (error.name === "AbortError") return null;
			throw error;
		}
	}

	// Gives it up, here and on the server.
	async cancel() {
		this.#abort.abort();
		if (this.request.id) await this.service.cancel(this.request.id);
	}

	// Tries until the server is no longer too busy for it.
	async #insist(attempt) {
		for (;;) {
			try {
				return await attempt();
			} catch (error) {
				if (!error.isPassing) throw error;
				for (let seconds = Math.ceil(error.retrySeconds); seconds > 0; seconds--) {
					this.onEvent("busy", { error, seconds });
					await pause(1000, this.#abort.signal);
				}
			}
		}
	}
}

function formOf({ document: { file, name }, mask, values }) {
	const form = new FormData();
	form.append("image", file, name || "picture");
	form.append("mask", mask, "mask.png");
	for (const [field, value] of Object.entries(values)) form.append(field, value);
	return form;
}
