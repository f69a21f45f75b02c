// One painting: sent, waited for where the server is busy, followed, and fetched. It has its own picture and mask.

import { pause } from "./element.js";

// What belongs to one painting from the press of the button on; can be stored.

export class Job extends EventTarget {
	#abort = new AbortController();

	constructor(service, request) {
		super();
		Object.assign(this, { service, request });
	}

	// Runs to the end: the painted files, as {file, seed}; null if it was cancelled; throws what went wrong.
	async run() {
		const { service, request } = this, { signal } = this.#abort;
		try {
			while (!request.id) {
				try {
					request.id = (await service.submit(this.#form(), request.key, (share) => this.#say("upload", { share }), signal)).id;
					this.#say("accepted", {});
				} catch (error) {
					if (!error.isPassing) throw error;
					await this.#wait(error, signal);
				}
			}
			const job = await service.follow(request.id, (name, data) => this.#say(name, data), signal);
			if (job.state === "cancelled") return null;
			if (job.state === "failed") throw Object.assign(new Error(job.error.error), { code: job.error.code, facts: job.error });
			return await this.#result(signal);
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

	async #result(signal) {
		const count = Number(this.request.values.num_images ?? 1);
		for (;;) {
			try {
				return await this.service.result(this.request.id, count);
			} catch (error) {
				if (!error.isPassing) throw error;
				await this.#wait(error, signal);
			}
		}
	}

	async #wait(error, signal) {
		for (let left = Math.ceil(error.retrySeconds); left > 0; left--) {
			this.#say("busy", { error, seconds: left });
			await pause(1000, signal);
		}
	}

	#form() {
		const form = new FormData(), { document: sent, mask, values } = this.request;
		form.append("image", sent.file, sent.name || "picture");
		form.append("mask", mask, "mask.png");
		for (const [name, value] of Object.entries(values)) form.append(name, value);
		return form;
	}

	#say(name, data) {
		this.dispatchEvent(new CustomEvent("progress", { detail: { name, data } }));
	}
}
