"use strict";
{
  const one = (selector, root = document) => root.querySelector(selector);
  const token = one("meta[name=token]").content;
  const songs = new Map(); // id -> what the server says of a song, in the order of the queue
  const uploads = []; // files on their way: { id, file, wishes, sent, error, request }
  let choices = { priors: [], defaults: {} };
  let connected = false; // whether the list came
  let opened = null; // the song that is listened to: { id, player, drawn, waiting }

  // --- words -----------------------------------------------------------------------------------------

  const clock = (time) => {
    const whole = Math.max(0, Math.round(time));
    const two = (value) => String(value).padStart(2, "0");
    const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
    return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
  };
  const count = (number, thing) => `${number} ${thing}${number === 1 ? "" : "s"}`;
  const formats = { wav: "WAV", flac: "FLAC", mp3: "MP3", ogg: "Ogg", stem: "NI stem file" };
  const facts = ({ seconds, wishes }) => {
    const into = wishes.two_stems ? `${wishes.two_stems} and the rest` : wishes.stems.join(", ");
    const said = [seconds ? clock(seconds) : "", formats[wishes.format], into];
    if (wishes.method !== "auto") said.push(wishes.method === "sgld" ? "Langevin" : "encoder");
    if (wishes.samples > 1) said.push(count(wishes.samples, "sample"));
    if (wishes.uncertainty) said.push("uncertainty");
    if (wishes.priors !== "bundled") said.push(wishes.priors.replace(/@(.{7}).*/, " @ $1"));
    return said.filter(Boolean).join(" · ");
  };
  const left = (song) => song.left === null ? null : Math.max(0, song.left - (performance.now() - song.heard) / 1000);
  const phases = { loading: "Loading the priors", reading: "Listening through", writing: "Writing the files", stopping: "Stopping" };
  // what to say of a song; `before` is the time until its turn, null where that is not known
  const stateOf = (song, before) => {
    if (song.state === "waiting") {
      return before === null || !song.expected ? "Waiting" : `Waiting, done in about ${clock(before + song.expected)}`;
    }
    if (song.state === "running") {
      const time = left(song);
      if (song.phase in phases) return phases[song.phase];
      return `${Math.floor(100 * part(song))} %${time === null ? "" : `, ${clock(time)} left`}`;
    }
    if (song.state === "done") return [`Done in ${clock(song.took)}`, ...song.notes].join(" · ");
    if (song.state === "failed") return `Failed: ${song.error}`;
    return "Cancelled";
  };
  const part = (song) => song.seconds ? Math.min(1, song.done / song.seconds) : 0;

  // --- the server ------------------------------------------------------------------------------------

  const ask = async (path, method = "GET") => {
    const answer = await fetch(`api/${path}`, { method, headers: { "X-Deepsep-Token": token } });
    if (!answer.ok) {
      const text = await answer.text();
      let said = text;
      try { said = JSON.parse(text).error; } catch { /* plain text */ }
      throw new Error(said);
    }
    return answer;
  };
  const tell = (text) => { one("#announce").textContent = text; };
  const act = (path) => ask(path, "POST").catch((error) => { tell(error.message); one("#line").textContent = error.message; });

  const connect = () => {
    const events = new EventSource("api/events");
    events.onopen = () => { delete document.body.dataset.lost; };
    events.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      const heard = performance.now();
      if (message.songs) {
        const known = new Map(songs);
        songs.clear();
        connected = true;
        for (const song of message.songs) songs.set(song.id, { ...song, heard });
        for (const song of songs.values()) announce(known.get(song.id), song);
      } else if (songs.has(message.song.id)) {
        announce(songs.get(message.song.id), message.song);
        songs.set(message.song.id, { ...message.song, heard });
      }
      show();
    };
    events.onerror = () => {
      if (!("lost" in document.body.dataset)) tell("The server does not answer.");
      document.body.dataset.lost = "";
      show();
      if (events.readyState === EventSource.CLOSED) setTimeout(connect, 2000);
    };
  };
  const announce = (before, song) => {
    if (!before || before.state === song.state) return;
    const said = { done: "is done", failed: `failed: ${song.error}`, cancelled: "is cancelled" }[song.state];
    if (said) tell(`${song.label} ${said}`);
  };

  // --- new songs -------------------------------------------------------------------------------------

  const add = (files) => {
    const chosen = wishes();
    for (const file of files) uploads.push({ id: `upload-${Math.random()}`, file, wishes: chosen, sent: 0, error: "" });
    send();
    show();
  };
  const send = () => {
    if (uploads.some((upload) => upload.request)) return;
    const next = uploads.find((upload) => !upload.error);
    if (!next) return;
    const request = next.request = new XMLHttpRequest();
    const query = new URLSearchParams({ name: next.file.name, wishes: JSON.stringify(next.wishes) });
    request.open("POST", `api/songs?${query}`);
    request.setRequestHeader("X-Deepsep-Token", token);
    request.upload.onprogress = ({ loaded, total }) => { next.sent = loaded / total; show(); };
    const end = (error) => {
      next.request = null;
      next.error = error;
      if (!error) uploads.splice(uploads.indexOf(next), 1);
      else tell(`${next.file.name}: ${error}`);
      send();
      show();
    };
    request.onload = () => {
      if (request.status === 201) return end("");
      let said = request.responseText;
      try { said = JSON.parse(said).error; } catch { /* plain text */ }
      return end(said || `the server answered ${request.status}`);
    };
    request.onerror = () => end("it did not reach the server; is deepsep app still running?");
    request.send(next.file);
  };
  const drop = (upload) => {
    uploads.splice(uploads.indexOf(upload), 1);
    upload.request?.abort();
    send();
    show();
  };

  // --- wishes ----------------------------------------------------------------------------------------

  const field = (id) => document.getElementById(id);
  const priors = () => choices.priors.find(({ spec }) => spec === field("priors").value) ?? choices.priors[0];
  const wishes = () => {
    const [format, detail] = field("format").value.split(" ");
    const wanted = { priors: field("priors").value || "bundled", method: field("method").value, format };
    if (format === "wav" || format === "flac") wanted.bit_depth = detail;
    if (format === "mp3") wanted.bitrate = Number(detail);
    if (format === "stem") wanted.codec = detail;
    if (field("into").value === "two") wanted.two_stems = field("two").value;
    if (field("into").value === "some") {
      const picked = [...field("some").querySelectorAll(":checked")].map((box) => box.value);
      if (picked.length) wanted.stems = picked;
    }
    wanted.samples = Math.min(choices.most_samples ?? 1, Math.max(1, Math.round(Number(field("samples").value)) || 1));
    wanted.uncertainty = field("uncertainty").checked;
    return wanted;
  };
  const methods = {
    auto: "The encoder where the priors have one, otherwise Langevin.",
    encoder: "About thirty times faster than the song plays.",
    sgld: "About twice as fast as the song plays; samples the posterior.",
  };
  const fit = () => { // what is offered follows from what is chosen
    const { sources, encoder } = priors() ?? { sources: [], encoder: false };
    const two = field("two").value;
    field("two").replaceChildren(...sources.map((name) => new Option(name, name, false, name === two)));
    const boxes = field("some");
    if ([...boxes.querySelectorAll("input")].map((box) => box.value).join() !== sources.join()) {
      boxes.replaceChildren(...sources.map((name) => {
        const label = document.createElement("label");
        label.innerHTML = '<input type="checkbox" checked><span></span>';
        label.firstChild.value = name;
        label.lastChild.textContent = name;
        return label;
      }));
    }
    field("two-field").hidden = field("into").value !== "two";
    field("some-field").hidden = field("into").value !== "some";
    const four = field("into").value === "all" && sources.length === 4;
    for (const option of field("format").options) option.disabled = option.value.startsWith("stem") && !four;
    if (field("format").selectedOptions[0].disabled) field("format").value = "wav float";
    one("[value=encoder]", field("method")).disabled = !encoder;
    if (field("method").value === "encoder" && !encoder) field("method").value = "auto";
    field("method-hint").textContent = methods[field("method").value];
  };
  const remember = () => {
    const kept = {};
    for (const id of ["into", "two", "format", "method", "priors", "samples"]) kept[id] = field(id).value;
    try { localStorage.setItem("wishes", JSON.stringify({ ...kept, uncertainty: field("uncertainty").checked })); } catch { /* private window */ }
  };
  const recall = () => {
    let kept = {};
    try { kept = JSON.parse(localStorage.getItem("wishes")) ?? {}; } catch { /* private window */ }
    field("priors").replaceChildren(...choices.priors.map(({ spec, label, sources }) => new Option(`${label} (${sources.join(", ")})`, spec)));
    fit();
    for (const [id, value] of Object.entries(kept)) {
      if (id === "uncertainty") field(id).checked = value && choices.pictures;
      else if (id === "samples" || [...(field(id)?.options ?? [])].some((option) => option.value === value && !option.disabled)) field(id).value = value;
      fit();
    }
    field("samples").max = choices.most_samples;
    field("uncertainty").disabled = !choices.pictures;
    if (!choices.pictures) field("uncertainty-hint").textContent = 'Needs matplotlib: pip install "deepsep[plot]"';
    if (field("priors").value !== "bundled" || field("samples").value !== "1" || field("uncertainty").checked) field("more").open = true;
  };

  // --- the list --------------------------------------------------------------------------------------

  const rows = new Map(); // id -> element
  const rowOf = (id) => {
    if (!rows.has(id)) {
      const row = one("#song-row").content.firstElementChild.cloneNode(true);
      row.dataset.id = id;
      one(".retry", row).addEventListener("click", () => act(`songs/${id}/retry`));
      one(".cancel", row).addEventListener("click", () => {
        const upload = uploads.find((one) => one.id === id);
        if (upload) drop(upload);
        else act(`songs/${id}/cancel`);
      });
      one(".remove", row).addEventListener("click", () => {
        const upload = uploads.find((one) => one.id === id);
        const next = row.nextElementSibling ?? row.previousElementSibling;
        if (upload) drop(upload);
        else act(`songs/${id}/remove`);
        (one(".open[href], button:not([hidden])", next ?? row) ?? field("files")).focus();
      });
      rows.set(id, row);
    }
    return rows.get(id);
  };
  const put = (element, text) => { if (element.textContent !== text) element.textContent = text; };
  const fill = (row, { label, about, state, told, share, playable, zip }) => {
    const id = row.dataset.id;
    row.dataset.state = state;
    put(one("h2", row), label);
    put(one(".facts", row), about);
    put(one(".state", row), told);
    const bar = one(".bar", row);
    bar.hidden = share === null;
    bar.setAttribute("aria-label", `Progress of ${label}`);
    bar.setAttribute("aria-valuenow", Math.floor(100 * (share ?? 0)));
    bar.style.setProperty("--part", share ?? 0);
    const open = one(".open", row);
    if (playable) {
      open.href = `#song=${id}`;
      open.removeAttribute("role");
      open.removeAttribute("aria-disabled");
    } else {
      open.removeAttribute("href");
      open.setAttribute("role", "link");
      open.setAttribute("aria-disabled", "true");
    }
    open.setAttribute("aria-label", `Listen to ${label}`);
    const acts = { cancel: state === "running" || state === "waiting" || state === "sending", retry: state === "failed" || state === "cancelled", zip };
    acts.remove = !acts.cancel;
    for (const [kind, wanted] of Object.entries(acts)) {
      const button = one(`.${kind}`, row);
      button.hidden = !wanted;
      button.setAttribute("aria-label", { cancel: `Cancel ${label}`, retry: `Try ${label} again`, remove: `Remove ${label} from the list`, zip: `Download all of ${label} as a zip` }[kind]);
    }
    if (zip) one(".zip", row).href = `api/songs/${id}/zip`;
  };
  const showList = () => {
    const order = [];
    let before = 0;
    for (const song of songs.values()) {
      const row = rowOf(song.id);
      const share = song.state === "running" ? part(song) : null;
      const playable = song.state === "done" || (song.state === "running" && song.drawn > 0);
      fill(row, { label: song.label, about: facts(song), state: song.state, told: stateOf(song, before), share, playable, zip: song.state === "done" });
      one(".cancel", row).disabled = song.phase === "stopping";
      if (song.state === "running") before = left(song);
      else if (song.state === "waiting" && before !== null) before = song.expected ? before + song.expected : null;
      order.push(row);
    }
    for (const upload of uploads) {
      const row = rowOf(upload.id);
      const { file, error, sent } = upload;
      const told = error ? `Failed: ${error}` : sent ? `Sending, ${Math.floor(100 * sent)} %` : "Waiting to be sent";
      fill(row, { label: file.name, about: `${(file.size / 1e6).toFixed(1)} MB`, state: error ? "failed" : "sending", told, share: error ? null : sent, playable: false, zip: false });
      one(".retry", row).hidden = true;
      order.push(row);
    }
    const list = field("songs");
    order.forEach((row, index) => { if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null); });
    while (list.children.length > order.length) list.lastElementChild.remove();
    for (const id of rows.keys()) if (!rows.get(id).isConnected) rows.delete(id);
    field("empty").hidden = order.length > 0;
    field("clear").hidden = ![...songs.values()].some((song) => song.state === "done");
  };
  const showLine = () => {
    const running = [...songs.values()].find((song) => song.state === "running");
    const ahead = [...songs.values()].filter((song) => song.state === "waiting").length;
    let said = "";
    if ("lost" in document.body.dataset) said = "The server does not answer. Start deepsep app again; this page goes on by itself.";
    else if (running) said = `${running.phase === "separating" ? `${Math.floor(100 * part(running))} % of ` : ""}${running.label}${ahead ? `, ${ahead} more` : ""}`;
    else if (ahead) said = `${count(ahead, "song")} waiting`;
    put(field("line"), said);
    document.title = running ? `${Math.floor(100 * part(running))} % · deepsep` : "deepsep";
  };

  // --- one song --------------------------------------------------------------------------------------

  const wantedSong = () => /^#song=([0-9a-f]+)$/.exec(location.hash)?.[1];
  const closeSong = () => {
    if (!opened) return;
    opened.player?.close();
    window.deepsep = undefined;
    field("player").replaceChildren();
    opened = null;
  };
  const isReady = (id, index) => {
    const song = songs.get(id);
    return song?.state === "done" || (song?.state === "running" && index < song.ready);
  };
  const sourceOf = (mine) => ({
    ready: (index) => isReady(mine.id, index),
    bytes: async (track, index) => {
      if (!isReady(mine.id, index)) await new Promise((go, fail) => mine.waiting.push({ index, go, fail }));
      return (await ask(`songs/${mine.id}/sound/${track}/${index}`)).arrayBuffer();
    },
  });
  const note = (text) => { // in the player's place
    if (field("player").textContent === text) return;
    field("player").innerHTML = '<p class="note"></p>';
    one("#player .note").textContent = text;
  };
  const draw = async (mine, song) => { // the player, or its pictures anew
    const version = song.state === "done" ? "whole" : song.drawn;
    if (mine.drawn === version || mine.drawing) return;
    mine.drawing = true;
    try {
      const { data, html } = await (await ask(`songs/${mine.id}/player`)).json();
      if (opened !== mine) return;
      if (mine.player) {
        mine.player.redraw(html);
      } else {
        field("player").innerHTML = html;
        mine.player = deepsepPlayer(field("player"), data, sourceOf(mine));
        window.deepsep = mine.player; // for scripts and tests
      }
      field("player").toggleAttribute("data-whole", version === "whole");
      mine.drawn = version;
    } catch (error) {
      mine.drawn = version;
      if (opened === mine && !mine.player) note(error.message);
    } finally {
      mine.drawing = false;
      if (opened === mine) show(); // there may be more by now
    }
  };
  const showSong = () => {
    const id = wantedSong();
    const song = songs.get(id);
    const inSong = Boolean(id);
    if (field("song-view").hidden === inSong) {
      field("song-view").hidden = !inSong;
      field("list-view").hidden = inSong;
      scrollTo(0, 0);
    }
    if (opened && opened.id !== id) {
      const { id: former } = opened;
      closeSong();
      if (!inSong) one(".open", rows.get(former) ?? document)?.focus();
    }
    if (!inSong) return;
    const problem = field("song-problem");
    if (!song) {
      put(field("song-title"), "");
      put(problem, "This song is not in the list any more.");
      problem.hidden = !connected;
      return;
    }
    if (!opened) {
      opened = { id, player: null, drawn: null, drawing: false, waiting: [] };
      put(field("song-title"), song.label);
      field("song-title").focus({ preventScroll: true });
    }
    put(field("song-title"), song.label);
    put(field("song-facts"), [facts(song), stateOf(song, null)].join(" · "));
    const running = song.state === "running";
    field("song-bar").hidden = !running;
    field("song-bar").style.setProperty("--part", part(song));
    field("song-bar").setAttribute("aria-valuenow", Math.floor(100 * part(song)));
    problem.hidden = song.state !== "failed";
    put(problem, song.error);
    const stopped = song.state === "failed" || song.state === "cancelled";
    for (const one of opened.waiting.splice(0)) {
      if (isReady(id, one.index)) one.go();
      else if (stopped) one.fail(new Error("the separation stopped"));
      else opened.waiting.push(one);
    }
    if (song.state === "done" || (running && song.drawn)) {
      draw(opened, song);
    } else {
      if (opened.player) {
        opened.player.close();
        opened.player = window.deepsep = undefined;
        opened.drawn = null;
      }
      const said = stopped ? "There is nothing to listen to." : "The first seconds play here as soon as they are separated.";
      note(said);
    }
    showDownloads(song);
  };
  const link = (text, href, kind = "") => {
    const made = document.createElement("a");
    made.className = `act ${kind}`;
    made.href = href;
    made.download = "";
    made.innerHTML = '<svg aria-hidden="true"><use href="#i-down"/></svg><span></span>';
    made.lastChild.textContent = text;
    return made;
  };
  const names = { mix: "Stem file", uncertainty: "Uncertainty (npz)", picture: "Uncertainty (png)" };
  const showDownloads = (song) => {
    const box = field("downloads");
    const key = song.state === "done" ? song.id : "";
    box.hidden = !key;
    if (box.dataset.of === key) return;
    box.dataset.of = key;
    box.replaceChildren();
    if (!key) return;
    const base = `api/songs/${song.id}`;
    box.append(link("All as zip", `${base}/zip`, "main"));
    const groups = new Map(); // number of a sample -> its links
    for (const name of song.files) {
      const [, sample, stem] = /^sample-(\d+)\/(.+)$/.exec(name) ?? [];
      const made = link(names[name] ?? stem ?? name, `${base}/file?${new URLSearchParams({ name })}`);
      if (sample) {
        made.setAttribute("aria-label", `Sample ${sample}: ${stem}`);
        if (!groups.has(sample)) {
          const group = document.createElement("div");
          group.innerHTML = "<span></span>";
          group.firstChild.textContent = `Sample ${sample}`;
          groups.set(sample, group);
          box.append(group);
        }
      }
      (groups.get(sample) ?? box).append(made);
    }
    if (song.stem_file) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "act stem-file";
      button.innerHTML = '<svg aria-hidden="true"><use href="#i-down"/></svg><span>NI stem file</span>';
      button.addEventListener("click", async () => {
        button.disabled = true;
        button.lastChild.textContent = "Making the stem file …";
        try {
          await ask(`songs/${song.id}/stem`, "POST");
          link("", `${base}/stem`).click();
          button.lastChild.textContent = "NI stem file";
        } catch (error) {
          button.lastChild.textContent = `No stem file: ${error.message}`;
          tell(error.message);
        }
        button.disabled = false;
      });
      box.append(button);
    }
  };

  const show = () => {
    showList();
    showLine();
    showSong();
  };

  // --- mouse, keys, start ----------------------------------------------------------------------------

  field("files").addEventListener("change", () => {
    add([...field("files").files]);
    field("files").value = "";
  });
  let over = 0;
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => { if (hasFiles(event)) document.body.classList.toggle("over", ++over > 0); });
  addEventListener("dragleave", (event) => { if (hasFiles(event)) document.body.classList.toggle("over", --over > 0); });
  addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); });
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    over = 0;
    document.body.classList.remove("over");
    if (wantedSong()) location.hash = "";
    add([...event.dataTransfer.files]);
  });
  field("wishes").addEventListener("input", () => { fit(); remember(); });
  field("wishes").addEventListener("submit", (event) => event.preventDefault());
  field("clear").addEventListener("click", async () => {
    for (const song of [...songs.values()]) if (song.state === "done") await act(`songs/${song.id}/remove`);
    field("files").focus();
  });
  addEventListener("hashchange", show);
  addEventListener("beforeunload", (event) => { if (uploads.some((upload) => !upload.error)) event.preventDefault(); });
  setInterval(() => { if ([...songs.values()].some((song) => song.state === "running")) show(); }, 1000);
  if (matchMedia("(max-width: 860px)").matches) field("options").open = false; // the songs come first
  ask("choices").then((answer) => answer.json()).then((found) => { choices = found; recall(); }).catch((error) => tell(error.message));
  connect();
  show();
}
