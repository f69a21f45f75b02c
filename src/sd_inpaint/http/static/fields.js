// The form's fields, made from the service's description of its parameters, which has the bounds and defaults.

const MAIN = ["prompt", "negative_prompt", "num_inference_steps", "guidance_scale", "seed", "num_images"];
const LONG_TEXTS = ["prompt", "negative_prompt"];
const LEFT_OUT = ["output_format", "quality"]; // the page reads JSON, and shows what keeps every pixel
const CAPTIONS = { num_inference_steps: "Steps", guidance_scale: "Guidance", num_images: "Pictures" };

export class Fields {
  /**
   * @param {object} parameters of the service's info, by name
   * @param {HTMLElement} main holds what most people set
   * @param {HTMLElement} more holds the rest
   */
  constructor(parameters, main, more) {
    this.controls = new Map();
    const row = element("div", { className: "row" });
    for (const [name, about] of Object.entries(parameters)) {
      if (LEFT_OUT.includes(name)) continue;
      const control = makeControl(name, about);
      this.controls.set(name, { control, about });
      const place = !MAIN.includes(name) ? more : LONG_TEXTS.includes(name) ? main : row;
      place.append(makeLabel(name, about, control));
    }
    main.append(row);
  }

  /** Puts what differs from the service's own defaults into a form. */
  fill(form) {
    for (const [name, { control, about }] of this.controls) {
      const value = control.type === "checkbox" ? String(control.checked) : control.value.trim();
      if (value !== "" && value !== String(about.default ?? "")) form.append(name, value);
    }
  }
}

function makeControl(name, about) {
  if (about.choices) {
    const options = about.choices.map((choice) => element("option", { value: choice, textContent: choice }));
    const control = element("select", { name });
    control.append(...options);
    control.value = about.default;
    return control;
  }
  if (about.type === "boolean") {
    return element("input", { name, type: "checkbox", checked: about.default });
  }
  if (LONG_TEXTS.includes(name)) {
    return element("textarea", {
      name, rows: name === "prompt" ? 3 : 2, maxLength: about.max_length, required: Boolean(about.required),
    });
  }
  return element("input", {
    name, type: "number", step: about.type === "integer" ? "1" : "any", value: about.default ?? "", placeholder: "auto",
    // The largest seed is more than a number of JavaScript's holds; the service checks what goes beyond.
    min: about.minimum ?? about.above ?? "", max: about.maximum <= Number.MAX_SAFE_INTEGER ? about.maximum : "",
  });
}

function makeLabel(name, about, control) {
  const isSwitch = control.type === "checkbox";
  const label = element("label", { className: isSwitch ? "switch" : "", title: about.description });
  const words = name.replaceAll("_", " ");
  const text = element("span", { textContent: CAPTIONS[name] ?? words[0].toUpperCase() + words.slice(1) });
  const hint = element("small", { textContent: about.description });
  if (isSwitch) {
    text.append(hint);
    label.append(control, text);
  } else {
    label.append(text, control, hint);
  }
  return label;
}

export function element(kind, properties) {
  return Object.assign(document.createElement(kind), properties);
}
