"use strict";
// The player of the report and of the application. `root` holds the markup of player.html, `data` what
// player.py says of the sound. `source.bytes(track, index)` gives a piece of sound as an ArrayBuffer once it is
// there, and `source.ready(index)` says whether it is.
const deepsepPlayer = (root, data, source) => {
  const { rate, seconds, piece, tracks } = data;
  const one = (selector) => root.querySelector(selector);
  const all = (selector) => [...root.querySelectorAll(selector)];
  const rows = all(".track");
  const playButton = one("#play");
  const ruler = one("#ruler");
  const now = one("#now");
  const statusLine = one("#status");
  const closing = new AbortController();

  // --- one piece of sound: bytes of a file -> samples cut to where they belong -----------------------

  const decode = (bytes) => new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);

  // Browsers differ in how much of the codec's delay they cut off, so a click of known place is decoded first.
  let delay;
  const measured = () => (delay ??= decode(deepsepPlayer.unpack(data.click)).then((buffer) => {
    const samples = buffer.getChannelData(0);
    let at = 0;
    samples.forEach((value, i) => { if (Math.abs(value) > Math.abs(samples[at])) at = i; });
    return at - data.clickAt;
  }));

  // Samples of `track` from `start(index)` on, faded at both ends so that neighbours add up to the whole.
  const start = (index) => index * piece * rate - (index ? data.fade / 2 : 0);
  const loadTrack = async (track, index) => {
    if (index * piece * rate >= tracks[track].frames) return null;
    const [buffer, late] = await Promise.all([source.bytes(track, index).then(decode), measured()]);
    const isLast = (index + 1) * piece * rate >= tracks[track].frames;
    const end = isLast ? tracks[track].frames : (index + 1) * piece * rate + data.fade / 2;
    const length = end - start(index);
    const skip = late + data.margin + start(index) - index * piece * rate;
    const cut = new AudioBuffer({ length, numberOfChannels: buffer.numberOfChannels, sampleRate: rate });
    for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
      const samples = buffer.getChannelData(channel).subarray(skip, skip + length);
      for (let i = 0; i < data.fade; i++) {
        const gain = (i + 0.5) / data.fade;
        if (index) samples[i] *= gain;
        if (!isLast) samples[length - 1 - i] *= gain;
      }
      cut.copyToChannel(samples, channel);
    }
    return cut;
  };

  const loaded = new Map();
  const load = async (index) => {
    for (const old of loaded.keys()) if (old !== index && old !== index - 1) loaded.delete(old);
    if (!loaded.has(index)) {
      const buffers = Promise.all(tracks.map((_, track) => loadTrack(track, index)));
      buffers.catch(() => loaded.delete(index));
      loaded.set(index, buffers);
    }
    return loaded.get(index);
  };

  // --- the player ------------------------------------------------------------------------------------

  let context = null;
  let gains = [];
  let output = null; // of the current run; replaced, not reused, so that one run fades while the next begins
  let nodes = [];
  let playing = false;
  let position = 0; // in seconds, while nothing sounds
  let zero = null; // the context's time at which the song would have begun, while it sounds
  let scheduled = -1;
  let run = 0;

  const onGrid = (time) => Math.round(time * rate) / rate;
  const current = () => (zero === null ? position : Math.min(seconds, Math.max(position, context.currentTime - zero)));

  const schedule = (index, buffers, earliest) => {
    const from = Math.max(start(index) / rate, earliest);
    buffers.forEach((buffer, track) => {
      const offset = from - start(index) / rate;
      if (!buffer || offset >= buffer.duration) return;
      const node = new AudioBufferSourceNode(context, { buffer });
      node.connect(gains[track]);
      node.start(zero + from, offset);
      nodes.push(node);
    });
    scheduled = index;
  };

  const silence = () => {
    run++;
    if (zero === null) return;
    position = current();
    zero = null;
    output.gain.setTargetAtTime(0, context.currentTime, 0.005);
    for (const node of nodes) node.stop(context.currentTime + 0.04);
    const old = output;
    setTimeout(() => old.disconnect(), 200);
    nodes = [];
  };

  const sound = async () => {
    silence();
    const mine = run;
    playButton.dataset.busy = "";
    try {
      if (!context) {
        context = new AudioContext({ sampleRate: rate });
        const targets = wanted();
        gains = tracks.map((_, track) => new GainNode(context, { gain: targets[track] }));
      }
      await context.resume();
      const index = Math.floor(position / piece);
      const pieces = [index];
      if ((index + 1) * piece - position < 2 && (index + 1) * piece < seconds) pieces.push(index + 1);
      if (!pieces.every(source.ready)) statusLine.textContent = "This part is still being separated.";
      const buffers = [];
      for (const number of pieces) buffers.push(await load(number));
      if (mine !== run) return;
      output = new GainNode(context, { gain: 0 });
      output.connect(context.destination);
      gains.forEach((gain) => { gain.disconnect(); gain.connect(output); });
      position = onGrid(position);
      const begin = onGrid(context.currentTime + 0.03);
      zero = begin - position;
      output.gain.setValueAtTime(0, begin);
      output.gain.linearRampToValueAtTime(data.gain, begin + 0.008);
      pieces.forEach((number, i) => schedule(number, buffers[i], position));
      statusLine.textContent = "";
    } catch (error) {
      if (mine !== run) return;
      playing = false;
      statusLine.textContent = `This browser cannot play the sound (${error.message}).`;
    } finally {
      if (mine === run) delete playButton.dataset.busy;
      show();
    }
  };

  const feed = async () => {
    if (zero === null) return;
    if (current() >= seconds) {
      silence();
      playing = false;
      show();
      return;
    }
    const next = scheduled + 1;
    if (next * piece >= seconds || next * piece - current() > 10) return;
    if (!source.ready(next)) { // it goes on from where the sound ends, once there is more
      if (current() > next * piece - 0.1) sound();
      return;
    }
    const mine = run;
    const buffers = await load(next);
    if (mine === run && scheduled < next) schedule(next, buffers, onGrid(context.currentTime + 0.02 - zero));
  };
  const feeding = setInterval(() => feed().catch((error) => { statusLine.textContent = error.message; }), 200);

  const toggle = () => {
    playing = !playing;
    if (playing) {
      if (current() >= seconds) position = 0;
      sound();
    } else {
      silence();
      delete playButton.dataset.busy;
    }
    show();
  };

  const seek = (time) => {
    silence();
    position = Math.min(seconds, Math.max(0, time));
    if (playing) sound();
    show();
  };

  // --- what is heard ---------------------------------------------------------------------------------

  const pressed = (row, kind) => row.querySelector(kind)?.getAttribute("aria-pressed") === "true";
  const wanted = () => {
    const original = one("[name=source]:checked").value === "original";
    const anySolo = rows.some((row) => pressed(row, ".solo"));
    return rows.map((row, track) => {
      const heard = original
        ? !track
        : track && !row.hidden && (anySolo ? pressed(row, ".solo") : !pressed(row, ".mute"));
      return heard ? row.querySelector(".volume").value / 100 : 0;
    });
  };
  const mix = () => {
    wanted().forEach((gain, track) => {
      rows[track].toggleAttribute("data-silent", !gain);
      if (context) gains[track].gain.setTargetAtTime(gain, context.currentTime, 0.012);
    });
  };
  // the rows of one instrument, one for each sample: its buttons and its volume are the same in all of them
  const alike = (row) => rows.filter((other) => other.dataset.stem === row.dataset.stem);
  const press = (row, kind) => {
    if (!row) return;
    const on = !pressed(row, kind);
    alike(row).forEach((other) => other.querySelector(kind).setAttribute("aria-pressed", on));
    one("[value=stems]").checked = true;
    mix();
  };
  const swap = () => {
    one("[name=source]:not(:checked)").checked = true;
    mix();
  };
  const choices = all("[name=sample]");
  const choose = () => {
    const { value } = choices.find((radio) => radio.checked);
    rows.forEach((row) => { row.hidden = Boolean(row.dataset.sample) && row.dataset.sample !== value; });
    one("[value=stems]").checked = true;
    mix();
  };

  // --- what is seen ----------------------------------------------------------------------------------

  const clock = (time) => {
    const whole = Math.floor(time);
    const two = (value) => String(value).padStart(2, "0");
    const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
    return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
  };
  let shown = null;
  const place = (time) => {
    root.style.setProperty("--at", time / seconds);
    const text = clock(time);
    if (text === shown) return;
    shown = text;
    now.textContent = text;
    ruler.setAttribute("aria-valuenow", Math.floor(time));
    ruler.setAttribute("aria-valuetext", `${text} of ${clock(seconds)}`);
  };
  let dragged = null;
  let frame = 0;
  const show = () => {
    place(dragged ?? current());
    playButton.toggleAttribute("data-on", playing);
    playButton.setAttribute("aria-label", playing ? "Pause" : "Play");
    cancelAnimationFrame(frame);
    if (playing) frame = requestAnimationFrame(show);
  };

  // --- mouse, touch and keys -------------------------------------------------------------------------

  playButton.addEventListener("click", toggle);
  all("[name=source]").forEach((radio) => radio.addEventListener("change", mix));
  choices.forEach((radio) => radio.addEventListener("change", choose));
  rows.forEach((row) => {
    row.querySelector(".solo")?.addEventListener("click", () => press(row, ".solo"));
    row.querySelector(".mute")?.addEventListener("click", () => press(row, ".mute"));
    const volume = row.querySelector(".volume");
    volume.addEventListener("input", () => {
      alike(row).forEach((other) => {
        const slider = other.querySelector(".volume");
        slider.value = volume.value;
        slider.setAttribute("aria-valuetext", `${volume.value} %`);
      });
      mix();
    });
  });

  const draggable = (element) => {
    const time = (event) => {
      const box = element.getBoundingClientRect();
      return seconds * Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    };
    const drop = (event) => {
      if (dragged === null) return;
      dragged = null;
      if (event.type === "pointerup") seek(time(event));
      show();
    };
    element.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      element.setPointerCapture(event.pointerId);
      dragged = time(event);
      show();
    });
    element.addEventListener("pointermove", (event) => {
      if (dragged === null) return;
      dragged = time(event);
      show();
    });
    element.addEventListener("pointerup", drop);
    element.addEventListener("pointercancel", drop);
  };
  draggable(ruler);
  all(".lane").forEach(draggable);

  const steps = { ArrowLeft: -5, ArrowDown: -5, ArrowRight: 5, ArrowUp: 5, PageDown: -30, PageUp: 30 };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { key, code, target } = event;
    const isControl = target.matches("a, button, input, select, summary, textarea");
    if (isControl && !root.contains(target)) return;
    const isButton = target.matches("button");
    const isInput = target.matches("input");
    const digit = /^(?:Digit|Numpad)([1-9])$/.exec(code)?.[1];
    if (key === " ") {
      if (isButton) return; // the button's own key
      toggle();
    } else if (digit) {
      press(rows.filter((row, track) => track && !row.hidden)[digit - 1], event.shiftKey ? ".mute" : ".solo");
    } else if (key === "o" || key === "O") {
      swap();
    } else if ((key === "s" || key === "S") && choices.length) {
      choices[(choices.findIndex((radio) => radio.checked) + 1) % choices.length].checked = true;
      choose();
    } else if (isInput) {
      return;
    } else if (key in steps && (target === ruler || key === "ArrowLeft" || key === "ArrowRight")) {
      seek(current() + steps[key]);
    } else if (key === "Home" || (key === "End" && target === ruler)) {
      seek(key === "Home" ? 0 : seconds);
    } else {
      return;
    }
    event.preventDefault();
  }, { signal: closing.signal });

  // Draw the lanes anew, from newer markup of the same tracks.
  const redraw = (markup) => {
    const fresh = document.createElement("template");
    fresh.innerHTML = markup;
    fresh.content.querySelectorAll(".lane").forEach((lane, track) => {
      rows[track].querySelector(".lane").replaceChildren(...lane.childNodes);
    });
  };

  const close = () => {
    closing.abort();
    clearInterval(feeding);
    cancelAnimationFrame(frame);
    playing = false;
    silence();
    context?.close();
  };

  ruler.setAttribute("aria-valuemax", Math.floor(seconds));
  mix();
  show();
  return { time: current, gains: () => gains.map((gain) => gain.gain.value), load: loadTrack, seek, redraw, close };
};

deepsepPlayer.unpack = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer;
