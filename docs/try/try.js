// The page "Try it": the shipped model, run in the browser by onnxruntime-web.
//
// What is drawn is laid over the image at the model's size; each answer is
// shown, and told to whom it may concern by an event "answer" of the page's
// root, as to the tests.

const PHOTOS = [
  ["rocket.jpg", "Photo of a rocket"],
  ["cat.jpg", "Photo of a cat"],
  ["coffee.jpg", "Photo of a cup of coffee"],
  ["galaxies.jpg", "Photo of galaxies"],
  ["1.png", "Example with a green digit"],
  ["2.png", "Example with a red digit"],
  ["3.png", "Example with a blue digit"],
  ["4.png", "Example with a purple digit"],
  ["5.png", "Example with a teal digit"],
  ["6.png", "Example with a mint digit"],
];
const COLORS = [
  ["white", "#ffffff"],
  ["black", "#111111"],
  ["yellow", "#ffd600"],
  ["red", "#e53935"],
  ["blue", "#1e6bff"],
];
const MAPS = ["attention", "one", "other", "contrast"];
// Drawn for a start, in shares of the image.
const THREE = [
  [0.16, 0.24],
  [0.23, 0.19],
  [0.33, 0.2],
  [0.37, 0.28],
  [0.33, 0.36],
  [0.25, 0.39],
  [0.35, 0.42],
  [0.4, 0.5],
  [0.36, 0.6],
  [0.26, 0.64],
  [0.16, 0.59],
];
const STAGE_SIDE = 512;
const MAP_SIDE = 256;
const MOST_BYTES = 30e6;
const MOST_PIXELS = 60e6;
// Of the image below the evidence, as in `visualization.signed_overlay`.
const SATURATION = 0.4;
// Milliseconds without another answer until a screen reader hears it.
const QUIET = 800;

const root = document.getElementById("try");
const element = (name) => document.getElementById(`try-${name}`);
const stage = element("stage");
const at = (name) => new URL(name, import.meta.url).href;

// What is shown: the whole image, until its pixels at the model's size are
// known; the image at the size of the stage; strokes over it; the classes that
// were chosen, null where they follow the prediction; and the last answer.
const shown = { strokes: [], one: null, other: null };
// What is drawn, on nothing.
const ink = canvasOf(STAGE_SIDE, STAGE_SIDE);
let model = null;

// ------------------------------------------------------------- the model

async function load() {
  const [runtime, about, onnx, wasm] = await Promise.all([
    import(at("runtime/onnxruntime.js")),
    fetched("model/about.json").then((response) => response.json()),
    fetched("model/model.onnx").then((response) => response.arrayBuffer()),
    fetched("runtime/onnxruntime.wasm.gz").then(unzipped),
  ]);
  // More threads need headers that few hosts send.
  runtime.env.wasm.numThreads = 1;
  runtime.env.wasm.wasmBinary = wasm;
  const session = await runtime.InferenceSession.create(onnx, {
    executionProviders: ["wasm"],
  });
  return { ...about, Tensor: runtime.Tensor, session };
}

async function fetched(name) {
  const response = await fetch(at(name));
  if (!response.ok) throw new Error(`${response.url}: ${response.status}`);
  return response;
}

// Hosts that know the ending `.gz` may have the browser unzip it.
async function unzipped(response) {
  const content = await response.blob();
  const start = new Uint8Array(await content.slice(0, 2).arrayBuffer());
  if (start[0] !== 0x1f || start[1] !== 0x8b) return content.arrayBuffer();
  const stream = content.stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

async function explained(pixels) {
  const [height, width] = model.image_size;
  const images = new model.Tensor("float32", pixels, [1, height, width, 3]);
  const began = performance.now();
  const given = await model.session.run({ images });
  const took = performance.now() - began;
  const [, rows, columns] = given.class_evidence.dims;
  return {
    pixels,
    took,
    probabilities: given.probabilities.data,
    logits: given.logits.data,
    attention: given.attention_map.data,
    attentionLogits: given.attention_logits.data,
    evidence: given.class_evidence.data,
    rows,
    columns,
  };
}

// ---------------------------------------------------------------- pixels

/** Resizes rows of `channels` numbers a pixel: bilinear, with antialiasing. */
export function resize(source, [height, width], [rows, columns], channels) {
  const wide = filtered(source, height, width, columns, channels);
  return transposed(
    filtered(
      transposed(wide, height, columns, channels),
      columns,
      height,
      rows,
      channels,
    ),
    columns,
    rows,
    channels,
  );
}

function filtered(source, height, width, columns, channels) {
  const result = new Float32Array(height * columns * channels);
  const windows = triangles(width, columns);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < columns; column++) {
      const { first, weights } = windows[column];
      const target = (row * columns + column) * channels;
      let from = (row * width + first) * channels;
      for (const weight of weights) {
        for (let channel = 0; channel < channels; channel++) {
          result[target + channel] += weight * source[from++];
        }
      }
    }
  }
  return result;
}

/** Where each new pixel looks: a triangle, as wide as it has to be. */
function triangles(from, to) {
  const radius = Math.max(from / to, 1);
  return Array.from({ length: to }, (_, index) => {
    const center = ((index + 0.5) * from) / to - 0.5;
    const first = Math.max(Math.ceil(center - radius), 0);
    const last = Math.min(Math.floor(center + radius), from - 1);
    const weights = [];
    for (let pixel = first; pixel <= last; pixel++) {
      weights.push(1 - Math.abs(pixel - center) / radius);
    }
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

function transposed(source, height, width, channels) {
  const result = new Float32Array(source.length);
  let from = 0;
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const target = (column * height + row) * channels;
      for (let channel = 0; channel < channels; channel++) {
        result[target + channel] = source[from++];
      }
    }
  }
  return result;
}

/** Upsamples a map, each cell to where the model saw it. */
export function upsample(map, [rows, columns], [height, width], locations) {
  const down = neighbors(rows, height, model.image_size[0], locations[0]);
  const along = neighbors(columns, width, model.image_size[1], locations[1]);
  const result = new Float32Array(height * width);
  for (let y = 0; y < height; y++) {
    const [top, bottom, low] = down[y];
    for (let x = 0; x < width; x++) {
      const [left, right, far] = along[x];
      const mix = (row) => {
        const [one, other] = [
          map[row * columns + left],
          map[row * columns + right],
        ];
        return one + (other - one) * far;
      };
      const above = mix(top);
      result[y * width + x] = above + (mix(bottom) - above) * low;
    }
  }
  return result;
}

/** The two cells next to each pixel, and the share of the second. */
function neighbors(cells, length, seen, { center, stride }) {
  return Array.from({ length }, (_, pixel) => {
    const point = ((pixel + 0.5) * seen) / length - 0.5;
    const cell = Math.min(Math.max((point - center) / stride, 0), cells - 1);
    const before = Math.floor(cell);
    return [before, Math.min(before + 1, cells - 1), cell - before];
  });
}

function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  return canvas;
}

function contextOf(canvas) {
  return canvas.getContext("2d", { willReadFrequently: true });
}

function dataOf(canvas) {
  return contextOf(canvas).getImageData(0, 0, canvas.width, canvas.height);
}

/** Size of an image whose longer side is given. */
function within({ width, height }, side) {
  const scale = side / Math.max(width, height);
  return [width, height].map((length) =>
    Math.max(Math.round(length * scale), 1),
  );
}

// -------------------------------------------------------------- an image

async function openExample([file, name], strokes = []) {
  const response = await fetched(`images/${file}`);
  await open(await response.blob(), name, strokes);
}

async function openFile(file) {
  if (!file) return;
  if (file.size > MOST_BYTES) {
    say(
      `“${file.name}” has more than 30 MB. To fix this: choose a smaller file.`,
    );
    return;
  }
  try {
    await open(file, file.name);
  } catch (error) {
    const reason = error instanceof RangeError ? error.message : "";
    say(
      reason ||
        `“${file.name}” is damaged, or no image that this browser reads. ` +
          "To fix this: choose a JPEG, PNG or WebP file.",
    );
  }
}

let openings = 0;

async function open(blob, name, strokes = []) {
  const opening = ++openings;
  const bitmap = await createImageBitmap(blob, {
    colorSpaceConversion: "none",
  });
  if (opening !== openings) return; // Another was chosen meanwhile.
  if (bitmap.width * bitmap.height > MOST_PIXELS) {
    throw new RangeError(
      `“${name}” has more than 60 million pixels. To fix this: make it smaller.`,
    );
  }
  const whole = canvasOf(bitmap.width, bitmap.height);
  const context = contextOf(whole);
  context.fillStyle = "#fff"; // Behind what is transparent.
  context.fillRect(0, 0, whole.width, whole.height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const photo = canvasOf(...within(whole, STAGE_SIDE));
  contextOf(photo).imageSmoothingQuality = "high";
  contextOf(photo).drawImage(whole, 0, 0, photo.width, photo.height);
  for (const canvas of [stage, ink]) {
    [canvas.width, canvas.height] = [photo.width, photo.height];
  }
  stage.style.setProperty("--aspect", photo.width / photo.height);
  Object.assign(shown, { whole, photo, pixels: null, strokes });
  shown.one = shown.other = null;
  for (const button of element("images").children) {
    button.setAttribute("aria-pressed", button.title === name);
  }
  say("");
  draw();
  choosePen();
}

function say(words) {
  element("message").textContent = words;
  element("message").hidden = !words;
}

/** A pen that stands out: white, or black on what is bright. */
function choosePen() {
  const small = canvasOf(1, 1);
  contextOf(small).drawImage(stage, 0, 0, 1, 1);
  const [red, green, blue] = dataOf(small).data;
  const bright = red + green + blue > 3 * 140;
  element("colors").querySelectorAll("input")[bright ? 1 : 0].checked = true;
}

// --------------------------------------------------------------- drawing

function draw() {
  drawInk();
  const context = contextOf(stage);
  context.drawImage(shown.photo, 0, 0);
  context.drawImage(ink, 0, 0);
  element("undo").disabled = element("clear").disabled = !shown.strokes.length;
  answer();
}

function drawInk() {
  const context = contextOf(ink);
  const side = Math.min(ink.width, ink.height);
  context.clearRect(0, 0, ink.width, ink.height);
  context.lineCap = context.lineJoin = "round";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.font = `bold ${0.6 * side}px sans-serif`;
  for (const { color, width, points, text } of shown.strokes) {
    context.strokeStyle = context.fillStyle = color;
    context.lineWidth = width * side;
    if (text) context.fillText(text, ink.width / 2, ink.height / 2);
    else context.stroke(curve(points));
  }
}

/** A smooth line through the middles between points; of one point, a dot. */
function curve(points) {
  const path = new Path2D();
  const scaled = points.map(([x, y]) => [x * stage.width, y * stage.height]);
  const [x, y] = scaled.at(-1);
  path.moveTo(...scaled[0]);
  scaled.slice(1).forEach(([right, bottom], index) => {
    const [left, top] = scaled[index];
    path.quadraticCurveTo(left, top, (left + right) / 2, (top + bottom) / 2);
  });
  path.lineTo(x + 0.01, y); // A line of no length would not be drawn.
  return path;
}

function pen() {
  const color = element("colors").querySelector("input:checked").value;
  return { color, width: element("width").value / 100 };
}

function pointOf(event) {
  const { left, top, width, height } = stage.getBoundingClientRect();
  return [(event.clientX - left) / width, (event.clientY - top) / height];
}

function startStroke(event) {
  if (event.button !== 0) return;
  stage.setPointerCapture(event.pointerId);
  shown.strokes.push({
    ...pen(),
    points: [pointOf(event)],
    by: event.pointerId,
  });
  draw();
}

function continueStroke(event) {
  const stroke = shown.strokes.at(-1);
  if (stroke?.by !== event.pointerId) return;
  // Of a fast pen there are more points than events.
  const events = event.getCoalescedEvents?.() ?? [];
  for (const each of events.length ? events : [event]) {
    stroke.points.push(pointOf(each));
  }
  draw();
}

function endStroke(event) {
  for (const stroke of shown.strokes) {
    if (stroke.by === event.pointerId) stroke.by = null;
  }
}

function writeDigit(event) {
  const isDigit = /^[0-9]$/.test(event.key);
  if (!isDigit || event.ctrlKey || event.metaKey || event.altKey) return;
  shown.strokes.push({ ...pen(), text: event.key });
  draw();
}

// ---------------------------------------------------------------- answer

/** The image with what is drawn laid over it, at the model's size. */
function input() {
  const { data } = dataOf(ink);
  const opaque = new Float32Array(data.length);
  for (let index = 0; index < data.length; index += 4) {
    const alpha = data[index + 3] / 255;
    for (let channel = 0; channel < 3; channel++) {
      opaque[index + channel] = alpha * data[index + channel];
    }
    opaque[index + 3] = alpha;
  }
  const over = resize(opaque, [ink.height, ink.width], model.image_size, 4);
  shown.pixels ??= resizedWhole();
  const count = over.length / 4;
  return Float32Array.from({ length: 3 * count }, (_, index) => {
    const pixel = 4 * Math.floor(index / 3);
    const below = shown.pixels[pixel + (index % 3)];
    return over[pixel + (index % 3)] + (1 - over[pixel + 3]) * below;
  });
}

/** The image at the model's size; the whole of it may be large, and goes. */
function resizedWhole() {
  const { width, height, data } = dataOf(shown.whole);
  shown.whole = null;
  return resize(data, [height, width], model.image_size, 4);
}

let busy = false;
let stale = false;

/** Answers what is shown; what changes meanwhile is answered next, once. */
async function answer() {
  stale = true;
  if (busy || !model) return;
  busy = true;
  try {
    while (stale) {
      await new Promise(requestAnimationFrame);
      stale = false;
      shown.answer = await explained(input());
      show();
    }
  } finally {
    busy = false;
  }
}

function show() {
  const { probabilities } = shown.answer;
  const order = [...probabilities.keys()].sort(
    (one, other) => probabilities[other] - probabilities[one],
  );
  const one = shown.one ?? order.find((index) => index !== shown.other);
  const other = shown.other ?? order.find((index) => index !== one);
  const best = model.class_names[order[0]];
  const sure = percent(probabilities[order[0]]);
  element("result").querySelector("b").textContent = best;
  element("result").querySelector("span").textContent = sure;
  element("time").textContent = `${Math.ceil(shown.answer.took)} ms`;
  element("follow").disabled = shown.one === null && shown.other === null;
  showClasses(probabilities, one, other);
  showMaps(one, other);
  announce(`${best}, ${sure}`);
  const detail = { ...shown.answer, one, other };
  root.dispatchEvent(new CustomEvent("answer", { detail }));
}

let announcing = 0;

function announce(words) {
  clearTimeout(announcing);
  announcing = setTimeout(() => {
    element("status").textContent = `The model says ${words}.`;
  }, QUIET);
}

function percent(probability) {
  if (probability < 0.001) return "< 0.1 %";
  if (probability > 0.999) return "> 99.9 %";
  return `${(100 * probability).toFixed(1)} %`;
}

function showClasses(probabilities, one, other) {
  const rows = element("classes").querySelectorAll(".try-class[data-index]");
  rows.forEach((row, index) => {
    const [first, second] = row.querySelectorAll("input");
    first.checked = index === one;
    second.checked = index === other;
    second.disabled = index === one;
    row.style.setProperty("--share", probabilities[index]);
    row.querySelector("output").textContent = percent(probabilities[index]);
  });
}

// ------------------------------------------------------------------ maps

function showMaps(one, other) {
  const { rows, columns, evidence, attention, attentionLogits } = shown.answer;
  const [width, height] = within(stage, MAP_SIDE);
  const below = canvasOf(width, height);
  contextOf(below).drawImage(stage, 0, 0, width, height);
  const fine = (map, cells, locations) =>
    upsample(map, cells, [height, width], locations);
  const classes = model.class_names.length;
  const [first, second] = [one, other].map((index) =>
    fine(
      Float32Array.from({ length: rows * columns }, (_, cell) => {
        return evidence[cell * classes + index];
      }),
      [rows, columns],
      model.locations,
    ),
  );
  const contrast = first.map((value, index) => value - second[index]);
  const pixels = { center: 0, stride: 1 };
  const heat = fine(attention, model.image_size, [pixels, pixels]);
  const limit = Math.max(largest(first), largest(second));
  const [name, than] = [one, other].map((index) => model.class_names[index]);
  const added = signed(attentionLogits[one]);
  showMap("attention", below, attended(below, heat), {
    title: "Attention map",
    note: `adds ${added} to the logit of ${name}`,
  });
  showMap("one", below, argued(below, first, limit), {
    title: `Evidence for ${name}`,
    limit,
  });
  showMap("other", below, argued(below, second, limit), {
    title: `Evidence for ${than}`,
    limit,
  });
  const own = largest(contrast);
  showMap("contrast", below, argued(below, contrast, own), {
    title: `${name} rather than ${than}`,
    limit: own,
  });
}

function largest(map) {
  return map.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

function signed(value) {
  const sign = value < 0 ? "−" : "+";
  return sign + Math.abs(value).toPrecision(3);
}

function showMap(name, { width, height }, pixels, { title, note, limit }) {
  const figure = element(name);
  const canvas = figure.querySelector("canvas");
  Object.assign(canvas, { width, height });
  contextOf(canvas).putImageData(pixels, 0, 0);
  const ends = limit === undefined ? ["0", "", "1"] : endsOf(limit);
  const spans = figure.querySelectorAll(".try-ends span");
  ends.forEach((text, index) => (spans[index].textContent = text));
  figure.querySelector("b").textContent = title;
  figure.querySelector("small").textContent = note ?? "";
  canvas.setAttribute("aria-label", `${title}, from ${ends[0]} to ${ends[2]}`);
}

function endsOf(limit) {
  const most = limit.toPrecision(3);
  return [`−${most}`, "0", `+${most}`];
}

/** Lays a heat map over the image, as `visualization.overlay` does. */
function attended(below, heat) {
  const { colors, opacity } = model.attention;
  return blended(below, (index) => {
    const value = Math.min(Math.max(heat[index], 0), 1);
    return [colors, value, opacity * Math.sqrt(value), 0];
  });
}

/** Lays signed evidence over it, as `visualization.signed_overlay` does. */
function argued(below, map, limit) {
  const { colors, opacity } = model.evidence;
  return blended(below, (index) => {
    const share = limit ? map[index] / limit : 0;
    const cover = opacity * Math.abs(share) ** 0.75;
    return [colors, (share + 1) / 2, cover, SATURATION];
  });
}

function blended(below, colorOf) {
  const image = dataOf(below);
  const { data } = image;
  for (let index = 0; index < data.length; index += 4) {
    const [colors, value, cover, saturation] = colorOf(index / 4);
    const level = 3 * Math.min(Math.floor(256 * value), 255);
    const gray = (data[index] + data[index + 1] + data[index + 2]) / 3;
    for (let channel = 0; channel < 3; channel++) {
      const muted = gray + saturation * (data[index + channel] - gray);
      const color = colors[level + channel];
      data[index + channel] = muted * (1 - cover) + color * cover;
    }
  }
  return image;
}

function levelsOf(hex) {
  return Uint8Array.from(hex.match(/../g), (byte) => parseInt(byte, 16));
}

function gradient(colors) {
  const stops = Array.from({ length: 17 }, (_, index) => {
    const level = 3 * Math.min(16 * index, 255);
    return `rgb(${colors.slice(level, level + 3).join(" ")})`;
  });
  return `linear-gradient(to right, ${stops.join(", ")})`;
}

// ------------------------------------------------------------- the page

function fromText(text) {
  const template = document.createElement("template");
  template.innerHTML = text.trim();
  return template.content.firstElementChild;
}

function addImages() {
  for (const example of PHOTOS) {
    const [file, name] = example;
    const button = fromText(
      `<button type="button" title="${name}" aria-pressed="false">` +
        `<img src="${at(`images/${file}`)}" alt="${name}"></button>`,
    );
    button.addEventListener("click", () => attempt(() => openExample(example)));
    element("images").append(button);
  }
}

function addColors() {
  for (const [name, value] of COLORS) {
    element("colors").append(
      fromText(
        `<input type="radio" name="try-color" value="${value}"` +
          ` aria-label="${name}" title="${name}" style="--color: ${value}">`,
      ),
    );
  }
}

function addClasses() {
  model.class_names.forEach((name, index) => {
    const row = fromText(
      `<div class="try-class" data-index="${index}">` +
        '<label class="try-for"><input type="radio" name="try-one"' +
        ` aria-label="evidence for ${name}">` +
        `<b>${name}</b><span class="try-bar"></span><output></output></label>` +
        '<input type="radio" name="try-other"' +
        ` aria-label="rather than ${name}" title="rather than ${name}"></div>`,
    );
    const [first, second] = row.querySelectorAll("input");
    first.addEventListener("change", () => {
      shown.one = index;
      if (shown.other === index) shown.other = null;
      show();
    });
    second.addEventListener("change", () => {
      shown.other = index;
      show();
    });
    element("classes").append(row);
  });
}

function addMaps() {
  for (const name of MAPS) {
    const of = name === "attention" ? model.attention : model.evidence;
    const figure = fromText(
      `<figure id="try-${name}"><canvas role="img"></canvas><figcaption>` +
        '<b></b><span class="try-scale"></span><span class="try-ends">' +
        "<span></span><span></span><span></span></span><small></small>" +
        "</figcaption></figure>",
    );
    figure.querySelector(".try-scale").style.background = gradient(of.colors);
    element("maps").append(figure);
  }
}

function listen() {
  stage.addEventListener("pointerdown", startStroke);
  stage.addEventListener("pointermove", continueStroke);
  stage.addEventListener("pointerup", endStroke);
  stage.addEventListener("pointercancel", endStroke);
  stage.addEventListener("keydown", writeDigit);
  element("undo").addEventListener("click", () => {
    shown.strokes.pop();
    draw();
  });
  element("clear").addEventListener("click", () => {
    shown.strokes.length = 0;
    draw();
  });
  element("follow").addEventListener("click", () => {
    shown.one = shown.other = null;
    show();
  });
  element("file").addEventListener("change", async (event) => {
    await openFile(event.target.files[0]);
    event.target.value = ""; // The same file can be chosen again.
  });
  root.addEventListener("dragover", (event) => {
    event.preventDefault();
    root.classList.add("try-over");
  });
  root.addEventListener("dragleave", () => root.classList.remove("try-over"));
  root.addEventListener("drop", (event) => {
    event.preventDefault();
    root.classList.remove("try-over");
    openFile(event.dataTransfer.files[0]);
  });
}

/** Says what failed, where nobody waits for it. */
async function attempt(task) {
  try {
    await task();
  } catch (error) {
    say(
      `The model could not be run: ${error.message}. To fix this: reload the page.`,
    );
    throw error;
  }
}

async function start() {
  root.hidden = false;
  addImages();
  addColors();
  listen();
  const three = { color: COLORS[0][1], width: 0.08, points: THREE };
  await openExample(PHOTOS[0], [three]);
  model = await load();
  for (const map of [model.attention, model.evidence]) {
    map.colors = levelsOf(map.colors);
  }
  addClasses();
  addMaps();
  answer();
}

attempt(start);
