// The service, as this page calls it. Addresses are relative, so that the page works behind a path of a proxy's.

import { pause } from "./dom.js";

const RECONNECT_MILLISECONDS = 2000;
const ENDS = ["done", "failed", "cancelled"];
const FINAL_STATUSES = [401, 403, 404];
const LONGEST_RETRY_SECONDS = 20; // a first Retry-After is a guess, and often far too long
const PASSING = ["unreachable", "queue_full", "too_many_connections", "rate_limited", "model_loading", "shutting_down", "not_ready", "state_unavailable", "upload_timeout"];

const PLAIN = { 0: "unreachable", 413: "body_too_large", 429: "queue_full" }; // of a proxy's answers
const LONGEST_SILENCE = 40_000; // the server says something each 15 seconds

// An error response of the service, or none at all.
export class ServiceError extends Error {
	constructor(status, body, retryAfter = null) {
		super(body.error ?? `The server answered ${status}.`);
		Object.assign(this, { status, facts: body, code: body.code ?? PLAIN[status] ?? (status > 501 ? "not_ready" : "internal") });
		this.retrySeconds = Math.min(Number(retryAfter) || 5, LONGEST_RETRY_SECONDS);
	}

	// Whether the same request may be served a little later.
	get isPassing() {
		return PASSING.includes(this.code);
	}
}

// The connection broke, unless somebody gave up.
const lost = (error) => { throw error.name === "AbortError" ? error : new ServiceError(0, {}); };

export class Service {
	apiKey = "";

	get #headers() {
		return this.apiKey ? { Authorization: `Bearer ${this.apiKey}` } : {};
	}

	async #call(path, options = {}) {
		const response = await fetch(`sd-inpaint/${path}`, { ...options, headers: { ...this.#headers, ...options.headers } }).catch(lost);
		if (!response.ok) throw new ServiceError(response.status, await response.json().catch(() => ({})), response.headers.get("Retry-After"));
		return response;
	}

	// The model, its limits, and each parameter's default and bounds.
	async info() {
		return (await this.#call("info")).json();
	}

	// What is in the way of a request, as an error; nothing if it would be served now.
	trouble() {
		return this.#call("health").then(() => null, (error) => error);
	}

	// Has a form accepted; sent again with the same key it is the same job. Not by fetch, which says nothing of an upload's progress.
	submit(form, key, onUpload, signal) {
		return new Promise((resolve, reject) => {
			const request = new XMLHttpRequest();
			const stop = () => { request.abort(); reject(signal.reason); };
			request.open("POST", "sd-inpaint/jobs");
			request.responseType = "json";
			for (const [name, value] of Object.entries({ ...this.#headers, "Idempotency-Key": key })) request.setRequestHeader(name, value);
			request.upload.onprogress = ({ lengthComputable, loaded, total }) => onUpload(lengthComputable ? loaded / total : 0);
			request.onerror = () => reject(new ServiceError(0, {}));
			request.onload = () => {
				const { status, response } = request;
				if (status < 300 && response) resolve(response);
				else reject(new ServiceError(status, response ?? {}, request.getResponseHeader("Retry-After")));
			};
			if (signal.aborted) return stop();
			signal.addEventListener("abort", stop);
			request.send(form);
		});
	}

	// A picture as the service sees it, for one that this browser cannot show: the file to show, and its own size.
	async preview(file) {
		const body = new FormData();
		body.append("image", file, file.name || "picture");
		const response = await this.#call("preview", { method: "POST", body });
		return { shown: await response.blob(), size: response.headers.get("X-Image-Size").split("x").map(Number) };
	}

	async cancel(id) {
		await this.#call(`jobs/${id}`, { method: "DELETE" });
	}

	// The painted files, byte for byte, as {file, seed}.
	async result(id, count) {
		const response = await this.#call(`jobs/${id}/result`, { headers: { Accept: count === 1 ? "image/png" : "application/json" } });
		if (count === 1) return [{ file: await response.blob().catch(lost), seed: response.headers.get("X-Seed"), warning: response.headers.get("X-Warning") }];
		const result = await response.json().catch(lost);
		return (result.images ?? [result]).map(({ image, media_type: type, seed }) => {
			const bytes = Uint8Array.from(atob(image), (letter) => letter.charCodeAt(0));
			return { file: new Blob([bytes], { type }), seed: String(seed), warning: result.warnings?.[0] };
		});
	}

	// The one picture of a job in another format.
	async resultAs(id, format) {
		const response = await this.#call(`jobs/${id}/result?output_format=${format}&quality=92`), file = await response.blob();
		if (file.type !== `image/${format}`) throw new ServiceError(406, {});
		return file;
	}

	// Follows a job to its end, across broken connections. Not an EventSource, which cannot send a key.
	async follow(id, onEvent, signal) {
		for (;;) {
			try {
				const { body } = await this.#call(`jobs/${id}/events`, { signal });
				for await (const [name, data] of events(body)) {
					if (ENDS.includes(name)) return data;
					onEvent(name, data);
				}
			} catch (error) {
				// The server's answer about the job itself is final; anything else may be a restart.
				if (error.name === "AbortError" || FINAL_STATUSES.includes(error.status)) throw error;
			}
			onEvent("lost", {});
			await pause(RECONNECT_MILLISECONDS, signal);
		}
	}
}

// Server-sent events of a response's body, as [name, data].
async function* events(body) {
	const reader = body.pipeThrough(new TextDecoderStream()).getReader();
	try {
		for (let text = ""; ;) {
			const { done, value } = await Promise.race([reader.read(), pause(LONGEST_SILENCE).then(() => ({ done: true }))]);
			if (done) return;
			const whole = (text + value).split("\n\n");
			text = whole.pop();
			for (const event of whole) {
				const fields = Object.fromEntries(event.split("\n").map((line) => line.split(/: (.*)/s, 2)));
				if (fields.event) yield [fields.event, JSON.parse(fields.data)];
			}
		}
	} finally {
		reader.cancel().catch(() => {}); // an aborted stream refuses, which is no trouble
	}
}
