// Pictures to try at once, with a mask and a prompt that the demo model can do something with. Their sources: samples/README.md.

import { $, element } from "./dom.js";
import { markOfFile } from "./mask.js";
import { Picture } from "./picture.js";

const FOLDER = "page/samples/";
const SAMPLES = [
	["cat", "a top hat", "Add a top hat"],
	["stream", "a frog", "Put a frog by the stream"],
	["meadow", "", "Remove a dandelion"],
];
const SUBJECTS_NAMED = 4;
const GENTLE = { num_inference_steps: 30, guidance_scale: 4 }; // at which a demo model looks best

// Lists them; `open` gets a function that loads a document and its values.
export function listSamples(open) {
	$.samples.append(...SAMPLES.map(([name, prompt, text]) => element("li", {}, element("button", { onclick: () => open(() => load(name, prompt)) },
		element("img", { src: `${FOLDER}${name}.jpg`, alt: "" }), element("span", { textContent: text })))));
}

async function load(sample, prompt) {
	const name = `${sample}.jpg`, [file, maskFile] = await Promise.all([name, `${sample}-mask.png`].map(async (each) => (await fetch(FOLDER + each)).blob()));
	const picture = await Picture.open({ file, name }), { image: _, ...mark } = await markOfFile(maskFile, picture.size);
	return { record: { file, name, marks: [mark] }, picture, values: { ...($["subject-list"].children.length ? GENTLE : {}), prompt } };
}

// Says what a model can paint that cannot paint everything; `choose` gets the name of a thing.
export function showAbility(subjects, choose) {
	if (!subjects) return;
	const all = element("button", { className: "link", textContent: `all ${subjects.length}`, onclick: () => $.subjects.showModal() });
	const named = subjects.slice(0, SUBJECTS_NAMED).join(", ");
	$.ability.replaceChildren(`This server runs the demo model. It paints ${subjects.length} things, each in one look: ${named} … See `, all, ".");
	$["subject-list"].replaceChildren(...subjects.map((name) => element("button", { textContent: name, onclick: () => {
		$.subjects.close();
		choose(name);
	} })));
}
