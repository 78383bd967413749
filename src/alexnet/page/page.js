"use strict";

const LARGEST = 10 * 2 ** 20; // bytes, as the server has it
const AGAIN = 2000; // milliseconds until unfinished work is asked for again

const $ = (id) => document.getElementById(id);
const percent = (value) => (100 * value).toFixed(1) + " %";
let picture = null; // the Blob that is shown
let turn = 0; // counts pictures, so that a late answer to an earlier one is dropped

async function ask(question, blob) {
  const response = await fetch(question, { method: "POST", body: blob, headers: { "Content-Type": "application/octet-stream" } });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function make(tag, text, kind) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
}

async function show(blob) {
  const mine = ++turn;
  $("results").classList.add("stale");
  if (blob.size > LARGEST) return say("This picture is too large: at most 10 MiB are read.", true);
  say("Looking at it …");
  let answer;
  try {
    answer = await ask("/answer", blob);
  } catch (problem) {
    if (mine === turn) say(problem.message === "Failed to fetch" ? "The server does not answer: is it still running?" : problem.message, true);
    return;
  }
  if (mine !== turn) return;
  picture = blob;
  $("results").hidden = false;
  $("results").classList.remove("stale");
  $("classes").replaceChildren(...answer.classes.map((one) => {
    const item = make("li");
    const bar = make("div", "", "bar");
    bar.style.width = percent(one.probability).replace(" ", "");
    item.append(bar, make("span", one.name), make("span", percent(one.probability), "n"));
    return item;
  }));
  const best = answer.classes[0];
  $("notes").textContent = answer.notes.join(", ");
  $("seen").src = answer.seen;
  $("seen").alt = "The picture, cut as the network sees it";
  $("why").hidden = answer.heat === null;
  if (answer.heat !== null) {
    $("heat").src = answer.heat;
    $("heat").alt = "The picture with heat where it speaks for " + best.name;
    $("because").textContent = "what speaks for " + best.name + " (Grad-CAM)";
  }
  say("Most probable: " + best.name + ", " + percent(best.probability) + ".");
  await Promise.all([maps(mine), nearest(mine)]);
}

async function maps(mine = turn) {
  const layer = $("layer").value;
  const image = $("maps");
  const room = image.parentElement.clientWidth;
  try {
    const found = await ask("/maps/" + encodeURIComponent(layer) + (room < 500 ? "?narrow" : ""), picture);
    if (mine !== turn || layer !== $("layer").value) return;
    image.src = found.picture;
    image.alt = found.text;
    // Whole multiples of a pixel, so that maps stay sharp.
    image.style.width = found.width * Math.max(1, Math.floor(room / found.width)) + "px";
    image.style.maxWidth = found.width > room ? "100%" : "none";
    $("told").textContent = found.text;
  } catch (problem) {
    if (mine === turn) $("told").textContent = problem.message;
  }
}

async function nearest(mine = turn) {
  try {
    const found = await ask("/nearest", picture);
    if (mine !== turn) return;
    $("nearest").replaceChildren();
    if (found.missing) {
      $("near").textContent = found.missing + (found.of ? " " + found.done + " of " + found.of + "." : "");
      if (found.of || found.opening) setTimeout(() => { if (mine === turn) nearest(mine); }, AGAIN);
      return;
    }
    $("near").textContent = "By what the last hidden layer answers, of " + found.of +
      (found.of < found.total ? " of " + found.total : "") + " training images.";
    $("nearest").append(...found.images.map((one) => {
      const item = make("li");
      const image = make("img");
      image.src = one.picture;
      image.alt = "training image of " + one.name;
      item.append(image, make("span", one.name));
      item.title = one.place;
      return item;
    }));
  } catch (problem) {
    if (mine === turn) $("near").textContent = problem.message;
  }
}

function first(list) {
  const file = Array.from(list).find((one) => one instanceof Blob);
  if (file) show(file);
  return file;
}

$("file").addEventListener("change", (event) => {
  first(event.target.files);
  event.target.value = ""; // the same file may be chosen again
});
$("layer").addEventListener("change", () => { if (picture) maps(); });
document.addEventListener("paste", (event) => first(event.clipboardData.files));
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault(); // the browser would leave the page for the picture
    $("drop").classList.toggle("over-it", kind === "dragenter" || kind === "dragover");
    if (kind === "drop" && !first(event.dataTransfer.files)) say("That was no file: save the picture and drop it from there.", true);
  });
}
