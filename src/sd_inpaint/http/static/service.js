// The service, as this page calls it. Addresses are relative, so that the page works behind a path of a proxy's.

const RECONNECT_MILLISECONDS = 2000;
const ENDS = ["done", "failed", "cancelled"];

/** An error response of the service. */
export class ServiceError extends Error {
  constructor(status, body) {
    super(body.error ?? `The server answered ${status}.`);
    this.status = status;
    this.code = body.code;
  }
}

export class Service {
  apiKey = "";

  async #call(path, options = {}) {
    const headers = { ...options.headers };
    if (this.apiKey) headers["X-API-Key"] = this.apiKey;
    let response;
    try {
      response = await fetch(`sd-inpaint/${path}`, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServiceError(0, { error: "The server cannot be reached." });
    }
    if (!response.ok) throw new ServiceError(response.status, await response.json().catch(() => ({})));
    return response;
  }

  /** The model, and each parameter's default and bounds. */
  async info() {
    return (await this.#call("info")).json();
  }

  /** Null if a request would be served now, else the error. */
  async trouble() {
    try {
      await this.#call("health");
      return null;
    } catch (error) {
      return error;
    }
  }

  /** Has a form accepted; sent again with the same key it is the same job. */
  async submit(form, key) {
    return (await this.#call("jobs", { method: "POST", body: form, headers: { "Idempotency-Key": key } })).json();
  }

  /** A picture as the service sees it, for one that this browser cannot show: the file to show, and its own size. */
  async preview(file) {
    const form = new FormData();
    form.append("image", file, file.name || "picture");
    const response = await this.#call("preview", { method: "POST", body: form });
    return { file: await response.blob(), size: response.headers.get("X-Image-Size").split("x").map(Number) };
  }

  async cancel(id) {
    await this.#call(`jobs/${id}`, { method: "DELETE" });
  }

  /** Pictures as {image: base64, media_type, seed}. */
  async result(id) {
    const result = await (await this.#call(`jobs/${id}/result`, { headers: { Accept: "application/json" } })).json();
    return result.images ?? [result];
  }

  /**
   * Follows a job to its end, across broken connections. Not an EventSource, which cannot send a key.
   * @param {(name: string, data: object) => void} onEvent gets "progress" and "preview"
   * @returns {Promise<object>} the job as it ended
   */
  async follow(id, onEvent, signal) {
    for (;;) {
      try {
        const response = await this.#call(`jobs/${id}/events`, { signal });
        for await (const [name, data] of events(response.body)) {
          if (ENDS.includes(name)) return data;
          onEvent(name, data);
        }
      } catch (error) {
        // The server's answer about the job itself is final; anything else may be a restart.
        if (error.name === "AbortError" || error.status === 404 || error.status === 401) throw error;
      }
      await new Promise((resolve) => { setTimeout(resolve, RECONNECT_MILLISECONDS); });
    }
  }
}

/** Server-sent events of a response's body, as [name, data]. */
async function* events(body) {
  let text = "";
  for await (const piece of decoded(body)) {
    text += piece;
    const whole = text.split("\n\n");
    text = whole.pop();
    for (const event of whole) {
      const fields = Object.fromEntries(event.split("\n").map((line) => line.split(/: (.*)/s, 2)));
      if (fields.event) yield [fields.event, JSON.parse(fields.data)];
    }
  }
}

async function* decoded(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {}); // an aborted stream refuses, which is no trouble
  }
}
