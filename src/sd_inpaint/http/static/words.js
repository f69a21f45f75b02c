// What the page says: errors of the service and names of its settings, in words for people.

const CAPTIONS = {
	negative_prompt: ["Avoid", "What should not appear."],
	num_inference_steps: ["Steps", "More take longer, for more detail."],
	guidance_scale: ["Guidance", "Low is free, high is literal."],
	seed: ["Seed", "The same number gives the same picture."],
	prompt_weights: ["Weights in the prompt", "(word:1.3) counts more; long prompts are read to the end."],
	prompt_syntax: ["Language of the prompt"],
	scheduler: ["Sampler"],
	strength: ["Strength", "Below 1, some of what was there shows through."],
	masked_content: ["Begin from", "With a strength below 1."],
	region: ["Work on", "A close look paints finer; the whole picture shows the model more."],
	padding: ["Surroundings", "What the model sees around the mask, in pixels."],
	soft_mask: ["Soft edges mean"],
	color_match: ["Match the colours", "Fits the new part to its surroundings."],
	keep_exif: ["Keep the camera's data", "Time, camera and place stay in the file."],
	mask_blur: ["Soften the mask", "In pixels."],
	mask_grow: ["Grow the mask", "In pixels; negative values shrink it."],
	mask_invert: ["Repaint what is not masked"],
	image: ["Picture"],
	mask: ["Mask"],
	prompt: ["Prompt"],
	num_images: ["Pictures"],
	loras: ["LoRAs", "Names and weights: name:0.8,other:0.5."],
};

const CHOICES = {
	default: "The model's own", ddim: "DDIM", ddim_a: "DDIM, livelier", pndm: "PNDM", euler: "Euler", euler_a: "Euler, livelier", unipc: "UniPC",
	lcm: "LCM", weights: "Plain, with (word:1.3)", a1111: "AUTOMATIC1111's", original: "What is there", fill: "The colours around it",
	auto: "Chosen by size", full: "The whole picture", mask: "The mask and around it", blend: "A blend of old and new", strength: "Less change",
};

const MARK_ONCE_MORE = "Clear the mask, and mark the part once more.";
const SEE_LOG = "whoever runs this server finds the reason in its log.";

const WITH_FACTS = {
	image_too_large: ({ maximum, value }) => (maximum && value ? `The picture has ${megapixels(value)} megapixels. This server takes up to ${megapixels(maximum)}.`
		: "The picture is too large for this server. A smaller one will do."),
	body_too_large: ({ maximum }) => `Picture and mask together are too large a file for this server${maximum ? `, which takes ${megabytes(maximum)} MB` : ""}. A JPEG of it is smaller.`,
	invalid_parameter: ({ field, minimum, maximum }) => {
		if (field === "strength" || !field) return "Strength and steps are so low together that no step is left. Raise one of them.";
		const name = `“${caption(field)[0]}”`, isAbove = minimum !== undefined, isBelow = maximum !== undefined;
		if (isAbove && isBelow) return `${name} goes from ${minimum} to ${maximum}.`;
		return isAbove || isBelow ? `${name} must be at ${isAbove ? `least ${minimum}` : `most ${maximum}`}.` : `This server cannot use that value for ${name}.`;
	},
};

const MESSAGES = {
	unreachable: "The server cannot be reached.",
	unauthorized: "This server asks for a key.",
	invalid_image: "This file is damaged, or no picture that can be read.",
	invalid_mask: `The mask could not be read. ${MARK_ONCE_MORE}`,
	size_mismatch: `Mask and picture differ in size. ${MARK_ONCE_MORE}`,
	queue_full: "Many pictures are waiting on this server.",
	too_many_connections: "Many people are connected to this server.",
	rate_limited: "You asked for many pictures at once.",
	quota_exceeded: "You have used up your share of this server for now.",
	model_loading: "The model is loading. You can open a picture and mark a part meanwhile.",
	model_disabled: "Painting is switched off on this server.",
	model_failed: `The model could not be started; ${SEE_LOG}`,
	not_ready: "The server is not ready yet.",
	shutting_down: "The server is restarting.",
	state_unavailable: "The server cannot store jobs right now.",
	credentials_expired: "The server's certificate has expired. Whoever runs it must renew it.",
	content_flagged: "The safety filter held the result back. Try other words, or another one.",
	deadline_exceeded: "It took longer than this server allows. Fewer steps or a smaller part are quicker.",
	upload_timeout: "The upload took too long.",
	out_of_memory: "The picture needs more memory than this server has. A smaller part or picture will do.",
	invalid_output: "The model gave no picture. Try another one.",
	job_lost: "The server lost this painting. Paint once more.",
	job_not_found: "This painting is no longer on the server.",
	forbidden_origin: "This server serves no pages of this address.",
	forbidden_host: "This server is not reached under this address.",
	internal: `Something went wrong on the server. Paint once more; if it happens again, ${SEE_LOG}`,
};

export const capital = (word) => word.charAt(0).toUpperCase() + word.slice(1);

// Caption and hint of a field of the API's.
export const caption = (name, description = "") => CAPTIONS[name] ?? [capital(name.replaceAll("_", " ")), description];

// A choice of the API's, as people read it: dpmpp_2m_karras → DPM++ 2M Karras.
export const choice = (value) => CHOICES[value] ?? value.split("_").map((part) => ({ dpmpp: "DPM++", "2m": "2M", sde: "SDE" })[part] ?? capital(part)).join(" ");

// What an error means for the person who meets it.
export const explain = ({ code, facts = {}, message }) => WITH_FACTS[code]?.(facts) ?? MESSAGES[code] ?? (code ? MESSAGES.internal : message);

export function duration(seconds) {
	const minutes = Math.round(seconds / 60);
	if (seconds < 2) return "a moment";
	if (seconds < 50) return `about ${seconds < 10 ? Math.round(seconds) : Math.round(seconds / 5) * 5} seconds`;
	return minutes <= 1 ? "about a minute" : minutes < 90 ? `about ${minutes} minutes` : `about ${Math.round(minutes / 60)} hours`;
}

// Where a job is, in words.
export function progress({ state, step, steps, queue_position: position, seconds_left: seconds }) {
	const left = (seconds ?? null) === null ? "" : `, ${duration(seconds)} left`;
	if (state === "finishing") return "Putting it together";
	if (step > 0) return `Step ${step} of ${steps}${left}`;
	if (!position) return "About to begin";
	return (position === 1 ? "Next in line" : `${position} are ahead of you`) + left;
}

export const megapixels = (pixels) => (pixels / 1e6).toFixed(pixels < 1e7 ? 1 : 0);
export const megabytes = (bytes) => Math.max(1, Math.round(bytes / 1e6));
