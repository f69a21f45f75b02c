// Pictures to try at once, with a mask and a prompt that the embedded model can do something with. Their sources: samples/README.md.

import { $, element } from "./element.js";
import { markOfFile } from "./mask.js";
import { Picture } from "./picture.js";

const FOLDER = "page/samples/";
const SAMPLES = [
	{ name: "cat.jpg", mask: "cat-mask.png", prompt: "a top hat", text: "Add a top hat" },
	{ name: "coffee.jpg", mask: "coffee-mask.png", prompt: "a red apple", text: "Put an apple in the cup" },
	{ name: "launch.jpg", mask: "launch-mask.png", prompt: "", text: "Remove the mast" },
];
const SUBJECTS_NAMED = 4;
const GENTLE = { num_inference_steps: 30, guidance_scale: 4 }; // at which a demonstration model looks best

// Lists them; `open` gets a document and its prompt.
export function listSamples(open) {
	$("samples").append(...SAMPLES.map((sample) => {
		const image = element("img", { src: FOLDER + sample.name, alt: "", width: 172, height: 108 });
		const button = element("button", { type: "button" }, image, element("span", { textContent: sample.text }));
		button.addEventListener("click", () => open(() => load(sample)));
		return element("li", {}, button);
	}));
}

async function load({ name, mask, prompt }) {
	const [file, maskFile] = await Promise.all([name, mask].map(async (each) => (await fetch(FOLDER + each)).blob()));
	const picture = await Picture.open({ file, shown: file, name });
	const { image: _, ...mark } = await markOfFile(maskFile, picture.size);
	return { record: { file, shown: file, name, marks: [mark] }, picture, values: { ...($("subject-list").children.length ? GENTLE : {}), prompt } };
}

// Says what a model can paint that cannot paint everything; `choose` gets the name of a thing.
export function showAbility(subjects, choose) {
	if (!subjects) return;
	const more = element("button", { type: "button", className: "link", textContent: `all ${subjects.length}` });
	more.addEventListener("click", () => $("subjects").showModal());
	const named = subjects.slice(0, SUBJECTS_NAMED).join(", ");
	$("ability").replaceChildren(`This server runs a small demonstration model. It paints ${subjects.length} things, each in one look: ${named} … See `, more, ".");
	$("subject-list").replaceChildren(...subjects.map((name) => {
		const button = element("button", { type: "button", textContent: name });
		button.addEventListener("click", () => { $("subjects").close(); choose(name); });
		return button;
	}));
}
