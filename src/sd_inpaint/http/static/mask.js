// The mask that is painted over a picture: strokes, kept as such, so that each can be taken back.

const LONGEST_SIDE = 2048; // of the canvas that is painted on, in pixels; the file has the picture's own size
const COLOUR = "#ff2d78";

export class Mask extends EventTarget {
  /** @param {HTMLCanvasElement} canvas lies over the picture, stretched to its shown size */
  constructor(canvas) {
    super();
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.isErasing = false;
    this.brushShare = 0.1; // the brush's width over the picture's shorter side
    this.reset(1, 1);
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#extend(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { this.stroke = null; });
  }

  /** Starts over, for a picture of this size in pixels. */
  reset(width, height) {
    const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
    this.size = [width, height];
    this.canvas.width = Math.max(1, Math.round(width * scale));
    this.canvas.height = Math.max(1, Math.round(height * scale));
    this.marks = []; // strokes, "invert" and "clear", in their order
    this.undone = [];
    this.stroke = null;
    this.#draw();
  }

  /** Width of the brush in pixels of the page. */
  get shownBrush() {
    const shown = this.canvas.getBoundingClientRect();
    return Math.max(2, this.brushShare * Math.min(shown.width, shown.height));
  }

  get isEmpty() {
    const { width, height } = this.canvas;
    const { data } = this.context.getImageData(0, 0, width, height);
    for (let i = 3; i < data.length; i += 4) if (data[i]) return false;
    return true;
  }

  add(mark) {
    this.marks.push(mark);
    this.undone = [];
    this.#draw();
  }

  undo() {
    if (this.marks.length) this.undone.push(this.marks.pop());
    this.#draw();
  }

  redo() {
    if (this.undone.length) this.marks.push(this.undone.pop());
    this.#draw();
  }

  /** A PNG of the picture's own size: white where it is to be repainted, black elsewhere. */
  async file() {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = this.size;
    const context = canvas.getContext("2d");
    context.drawImage(this.canvas, 0, 0, ...this.size);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = "white";
    context.fillRect(0, 0, ...this.size);
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = "black";
    context.fillRect(0, 0, ...this.size);
    const file = await new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });
    if (!file) throw new Error("This browser cannot create a mask of that size; try a smaller picture.");
    return file;
  }

  #point(event) {
    const shown = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - shown.left) / shown.width) * this.canvas.width,
      ((event.clientY - shown.top) / shown.height) * this.canvas.height,
    ];
  }

  #begin(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    const width = this.shownBrush * (this.canvas.width / this.canvas.getBoundingClientRect().width);
    this.stroke = { points: [this.#point(event)], width, isErasing: this.isErasing };
    this.add(this.stroke);
  }

  #extend(event) {
    if (!this.stroke) return;
    // A browser hands over several positions at once; without them a quick stroke has corners.
    const events = event.getCoalescedEvents?.() ?? [];
    const points = (events.length ? events : [event]).map((each) => this.#point(each));
    const from = this.stroke.points.at(-1);
    this.stroke.points.push(...points);
    this.#drawStroke({ ...this.stroke, points: [from, ...points] });
  }

  #draw() {
    const { width, height } = this.canvas;
    this.context.clearRect(0, 0, width, height);
    for (const mark of this.marks) {
      if (mark === "clear") {
        this.context.clearRect(0, 0, width, height);
      } else if (mark === "invert") {
        this.context.globalCompositeOperation = "xor";
        this.context.fillStyle = COLOUR;
        this.context.fillRect(0, 0, width, height);
      } else {
        this.#drawStroke(mark);
      }
    }
    this.dispatchEvent(new Event("change"));
  }

  #drawStroke({ points, width, isErasing }) {
    const { context } = this;
    context.globalCompositeOperation = isErasing ? "destination-out" : "source-over";
    context.strokeStyle = COLOUR;
    context.lineWidth = width;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...points[0]);
    for (const point of points) context.lineTo(...point);
    context.stroke();
  }
}
