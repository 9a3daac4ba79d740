"""Lay out everything that the bundled weights are trained on, and the excerpts they are judged by, in one folder.

Usage: python scripts/collect.py CORPUS OUT [--only STEP,STEP...] [--minutes 160]

CORPUS is the folder of solo recordings and records that docs/training_recordings.txt lists (vocals/, drums/, bass/,
other/, accompaniment/, midi/, render.py, debian_music.tsv). Written are

    OUT/data/SOURCE/ORIGIN/            solo recordings, by origin
    OUT/data/drums+bass+other/ORIGIN/  records without singing: sets of sources; so are other names with a plus
    OUT/mixtures/                      songs with singers, unlabelled
    OUT/songs/NAME/                    development songs, never trained on
    OUT/excerpts/NAME/                 of records without singing and voices, recordings that are not trained on
    OUT/held_out/                      these records

in steps: solos, debian (records and drum sounds from Debian packages), render (MIDI), synthesise, voices (other singers
made of those there are), speech (words spoken in games, and the same sung), kits (recorded drum kits from Debian
packages), sampled (notes of recorded instruments from npm packages), varied (the MIDI on other instruments), excerpts.
Stop it at any time and run it again: steps that had ended are not taken again, the one that had not begins anew. A
recording that is not the one listed under its name in docs/training_recordings.txt is left out.

It needs apt-get, dpkg, npm, fluidsynth with two SoundFonts (see render.py), and pip install mido pyworld
'setuptools<81'.
"""

import argparse
import csv
import importlib
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import mido
import numpy as np
import soundfile
import soxr
import stempeg
from packages import extract, link, unlike, unpack_debian, unpack_npm, unzip
from stages import alone, take
from voices import other_singer, sing

HERE = Path(__file__).resolve().parent
RATE = 44100
SET = "drums+bass+other"
STEPS = (
    "solos", "debian", "render", "synthesise", "voices", "speech", "kits", "sampled", "varied", "excerpts",
)  # fmt: skip

ORIGINS = {  # file name's start -> origin, where it is not the same
    "dorodoro": "banks", "erithacus": "banks", "kumi": "banks", "scottpoid": "banks",
}  # fmt: skip

MADE = {  # origins of recordings that these programs make; no two versions of the libraries make the same
    "rendered", "varied", "synth", "boom", "beats", "kits", "sampled", "guitars", "moved", "moved_more", "spoken",
    "played",
}  # fmt: skip

# held out: singers' files and records that only the excerpts hear
HELD_OUT_VOICES = ("producer_04", "producer_09")
HELD_OUT_RECORDS = (
    "mcl_jukebox_track_3", "mcl_jukebox_track_5", "voxelibre_Jester-Flock-of-One",
    "voxelibre_exhale_and_tim_unwin-valley_of_ghosts", "digabi_hyde_acoustically_driven_instrumental",
    "digabi_trow_acoustic_guitar_arrangement_for_song", "voxelibre_diminixed-nevergrowup04", "mcl_jukebox_track_7",
)  # fmt: skip
EXCERPTS = [  # record, where in seconds; voice, where in seconds; level of the voice in dB below the record
    (0, 60, "producer_04", 8, 3), (1, 40, "songs/potassium/vocals", 60, 5),
    (2, 30, "producer_09", 5, 6), (3, 50, "producer_04", 60, 4),
    (4, 30, "songs/potassium/vocals", 100, 2), (5, 40, "producer_09", 50, 6),
    (6, 30, "producer_04", 90, 8), (7, 45, "songs/potassium/vocals", 150, 6),
]  # fmt: skip
EXCERPT_SECONDS = 20

SPEECH = [  # words in packages whose sounds are CC BY-SA 3.0, a folder a speaker; so are those in 0ad-data's public.zip
    "megaglest-data/usr/share/games/megaglest/techs/megapack/factions/*/units/*/sounds/*_ack*.*",
    "megaglest-data/usr/share/games/megaglest/techs/megapack/factions/*/units/*/sounds/*_select*.*",
    "redeclipse-data/usr/share/games/redeclipse/data/sounds/voice/*.*",
    "redeclipse-data/usr/share/games/redeclipse/data/sounds/announcer/*.*",
]
LEFT_OUT = {  # recordings of debian_music.tsv that the weights in the wheel heard, and that are left out since
    "nolok_speech.ogg": "spoken",
    "machinery.mp3": "no music",
    "beneath_the_rabbit_hole.ogg": "CC BY-SA of no stated version",
}
RIFFS = "fretsonfire-songs-muldjord"  # four metal songs, their guitars apart from all else, CC BY-SA 3.0
WITHOUT_VOICE = ("armygeddon",)  # of these
RECORDS = "warzone2100-music"  # 25 pieces by LupusMechanicus, CC BY-SA 3.0
NOT_HIS = ("track3_enhanced",)
SAMPLES = "sonic-pi-samples"  # CC0, some MIT
ROLES = {  # start of a sample's name -> the drum it is
    "bd_": "kick", "drum_bass": "kick", "drum_heavy": "kick", "elec_hollow_kick": "kick", "elec_soft_kick": "kick",
    "sn_": "snare", "drum_snare": "snare", "elec_snare": "snare", "elec_hi_snare": "snare", "elec_lo_snare": "snare",
    "elec_mid_snare": "snare", "elec_filt_snare": "snare", "drum_cymbal_closed": "hat", "drum_cymbal_pedal": "hat",
    "elec_tick": "hat", "drum_cymbal_open": "open", "drum_tom": "tom", "elec_fuzz_tom": "tom", "drum_splash": "crash",
    "drum_cymbal_hard": "crash", "elec_cymbal": "ride", "drum_cymbal_soft": "ride", "drum_cowbell": "perc",
    "perc_snap": "perc", "perc_till": "perc", "elec_wood": "perc", "elec_twip": "perc", "elec_pop": "perc",
    "tabla_": "perc",
}  # fmt: skip
NOTES = {  # npm packages tonejs-instrument-NAME-mp3 of single notes, CC BY 3.0 -> version
    "bass-electric": "1.1.2", "contrabass": "1.1.2", "bassoon": "1.1.2", "cello": "1.1.1", "clarinet": "1.1.2",
    "flute": "1.1.2", "french-horn": "1.1.2", "guitar-acoustic": "1.1.2", "guitar-electric": "1.1.1",
    "guitar-nylon": "1.1.1", "harmonium": "1.1.1", "harp": "1.1.1", "organ": "1.1.1", "piano": "1.1.2",
    "saxophone": "1.1.2", "trombone": "1.1.2", "trumpet": "1.1.2", "tuba": "1.1.2", "violin": "1.1.1",
    "xylophone": "1.1.2",
}  # fmt: skip
BASS_NOTES = ("bass-electric", "contrabass", "tuba")
PROGRAMS = {  # General MIDI programs that may stand in for those of a file
    "drums": (0, 8, 16, 24, 25, 32, 40, 48),
    "bass": (*range(32, 40), 43, 58, 87),
    "other": (*range(32), *range(40, 52), *range(55, 85), 86, *range(88, 96), *range(104, 112)),
}
KITS = "hydrogen-drumkits"  # of which these are CC0, CC BY, CC BY-SA or given away by their author
FREE_KITS = ("rumpf_kit_z01_h2", "BJA_Pacific", "circAfrique v4", "Audiophob", "ElectricEmpireKit", "HardElectro1",
             "VariBreaks")  # fmt: skip
KIT_ROLES = {  # a word in a kit's name for an instrument -> the drum it is; the first that fits
    "kick": "kick", "bass": "kick", "snare": "snare", "clap": "perc", "stick": "perc", "click": "perc", "open": "open",
    " op": "open", "hat": "hat", "hh": "hat", "hi-hat": "hat", "tom": "tom", "drum ": "tom", "crash": "crash",
    "ride": "ride", "cymbal": "ride", "bell": "perc", "conga": "perc", "djembe": "perc", "sangban": "perc",
    "dununba": "tom", "kenkeni": "perc",
}  # fmt: skip
PLAYED = "avldrums.lv2-soundfont"  # two recorded kits by Glen MacArthur, CC BY-SA 3.0
# an electronic kit's keys -> those of these kits
PLAYED_KEYS = {22: 42, 26: 46, 43: 41, 48: 45, 50: 47, 58: 43}
LOOPS = (  # but for those of a record of the 1960s
    "loop_breakbeat", "loop_compus", "loop_garzul", "loop_industrial", "loop_mehackit", "loop_mika",
    "loop_perc", "loop_safari", "loop_tabla", "loop_electric", "loop_3d",
)  # fmt: skip


def solos(corpus: Path, made: Path) -> None:
    """Solo recordings by origin, records without singing, unlabelled songs, the songs that are not rendered."""
    for source in ("vocals", "drums", "bass", "other"):
        for path in sorted((corpus / source).glob("*.ogg")):
            if path.stem not in HELD_OUT_VOICES:
                start = path.stem.partition("_")[0]
                link(path, made / "data" / source / ORIGINS.get(start, start) / path.name)
    for path in sorted((corpus / "accompaniment").glob("*.ogg")):
        if path.stem not in HELD_OUT_RECORDS:
            link(path, made / "data" / SET / path.stem.partition("_")[0] / path.name)
    for path in sorted((corpus / "unlabelled").glob("*.ogg")):
        link(path, made / "mixtures" / path.name)
    for song in sorted((corpus / "songs").iterdir()):
        for path in song.iterdir():
            link(path, made / "songs" / song.name / path.name)
    falcon = Path(stempeg.example_stem_path())
    link(falcon, made / "songs" / falcon.name)


def debian(corpus: Path, out: Path, made: Path) -> None:
    """Records from Debian packages, and drum sounds."""
    packages = out / "debian"
    with open(corpus / "debian_music.tsv", encoding="utf-8", newline="") as table:
        rows = [row for row in csv.DictReader(table, delimiter="\t") if row["class"] != "doubtful"]
    rows = [row for row in rows if Path(row["path"]).name not in LEFT_OUT]
    files = [Path(row["path"].rpartition("!/")[2]) for row in rows]
    names = Counter((row["package"], path.name) for row, path in zip(rows, files, strict=True))
    for row, path in zip(rows, files, strict=True):
        twice = names[row["package"], path.name] > 1
        name = (f"{path.parent.name}_{path.name}" if twice else path.name).replace(" ", "_")
        origin = row["package"].removesuffix("-data").removesuffix("-music")
        target = made / "mixtures" / name if row["class"] == "song" else made / "data" / SET / origin / name
        if not extract(unpack_debian(row["package"], packages), row["path"], target):
            print(f"left out: {row['package']} has no {row['path']}", flush=True)
    for path in sorted(
        unpack_debian(RIFFS, packages).glob("usr/share/games/fretsonfire/data/songs/*/*/guitar.ogg")
    ):
        song = path.parent.name
        link(path, made / "data" / "other" / "muldjord" / f"{song}.ogg")
        rest = "drums+bass" if song in WITHOUT_VOICE else "vocals+drums+bass"
        link(path.with_name("song.ogg"), made / "data" / rest / "muldjord" / f"{song}_without_guitar.ogg")
    for album in ("aftermath", "legacy"):
        folder = (
            unpack_debian(RECORDS, packages) / f"usr/share/games/warzone2100/music/albums/{album}_soundtrack"
        )
        for path in sorted(folder.glob("*.opus")):
            if path.stem not in NOT_HIS:
                link(path, made / "data" / SET / "warzone2100" / path.name)
    samples = unpack_debian(SAMPLES, packages) / "usr/share/sonic-pi/samples"
    for path in sorted(samples.glob("*.flac")):
        for start, role in ROLES.items():
            if path.stem.startswith(start):
                link(path, made / "samples" / "drums" / role / path.name)
        if path.stem.startswith(LOOPS):
            link(path, made / "data" / "drums" / "loops" / path.name)


def run(*command: object) -> None:
    """Run a program of this folder or of the corpus."""
    subprocess.run([sys.executable, *map(str, command)], check=True)


def render(corpus: Path, made: Path, minutes: float) -> None:
    """MIDI as sound, and the development songs that are held out of it."""
    run(corpus / "render.py", made / "rendered", "--minutes", minutes)
    for folder in sorted((made / "rendered").iterdir()):
        (made / "data" / folder.name).mkdir(parents=True)
        folder.rename(made / "data" / folder.name / "rendered")
    run(corpus / "render.py", made, "--held-out")


def synthesise(out: Path, made: Path, minutes: float) -> None:
    """Synthetic basses, accompaniments and drums, and beats on recorded hits."""
    play_synths(made, "synth", minutes / 4)
    play_synths(made, "boom", minutes / 6, "--sources", "bass", "--kinds", "boom,sine", "--seed", 3)
    hits = out / "samples"
    play_synths(made, "beats", minutes / 5, "--sources", "drums", "--samples", hits, "--seed", 5)


def play_synths(made: Path, origin: str, minutes: float, *options: object) -> None:
    """Run synthesise.py, which writes SOURCE/, and move that to data/SOURCE/ORIGIN/."""
    run(HERE / "synthesise.py", made / origin, "--minutes", minutes, *options)
    for folder in sorted((made / origin).iterdir()):
        (made / "data" / folder.name).mkdir(parents=True, exist_ok=True)
        folder.rename(made / "data" / folder.name / origin)


def read(path: Path, start: float = 0.0, seconds: float | None = None) -> np.ndarray:
    """Samples (c, t) at 44.1 kHz."""
    with soundfile.SoundFile(path) as file:
        file.seek(min(file.frames, int(start * file.samplerate)))
        x = file.read(-1 if seconds is None else int(seconds * file.samplerate), "float32", always_2d=True)
        rate = file.samplerate
    return np.asarray(soxr.resample(x, rate, RATE).T)


def voices(out: Path, made: Path, minutes: float) -> None:
    """Other singers made of those there are: pitch and formants moved apart, breath, drive, harmonies, doubles."""
    origins = {"eif": 0.35, "producer": 0.35, "sung": 0.15, "banks": 0.15}
    files = {o: sorted((out / "data" / "vocals" / o).glob("*.ogg")) for o in origins}

    def phrases(random: np.random.Generator) -> Iterator[np.ndarray]:
        for _ in range(3):
            recordings = files[str(random.choice(list(origins), p=list(origins.values())))]
            path = recordings[int(random.integers(len(recordings)))]
            x = read(path, random.uniform(0, max(0.0, soundfile.info(path).duration - 10)), 10.0).mean(0)
            if np.abs(x).max() > 0.01:
                yield other_singer(x / np.abs(x).max(), random)

    for name, seed in (("moved", 7), ("moved_more", 8)):
        sing_all(phrases, made / "data" / "vocals" / name, minutes, seed)


def speech(out: Path, made: Path, minutes: float) -> None:
    """Words of games' speakers: spoken one after another as in rap, or sung by the same speaker."""
    speakers: dict[str, list[Path]] = {}
    for pattern in SPEECH:
        for path in sorted(unpack_debian(pattern.partition("/")[0], out / "debian").parent.glob(pattern)):
            speakers.setdefault(f"{path.parent}", []).append(path)
    (public,) = unpack_debian("0ad-data", out / "debian").glob("usr/share/games/*/mods/public/public.zip")
    for path in unzip(public, "audio/voice/", made / "words"):
        speakers.setdefault(f"{path.parent}", []).append(path)
    names = sorted(name for name, paths in speakers.items() if len(paths) >= 4)

    def phrases(random: np.random.Generator) -> Iterator[np.ndarray]:
        words = speakers[names[int(random.integers(len(names)))]]
        sung = random.random() < 0.6
        for _ in range(6 if sung else 14):
            x = read(words[int(random.integers(len(words)))], 0.0, 5.0).mean(0)
            if len(x) < RATE / 5 or np.abs(x).max() < 0.01:
                continue
            x = np.trim_zeros(np.where(np.abs(x) > 0.01 * np.abs(x).max(), x, 0))
            x = sing(x, random) if sung else x
            if random.random() < 0.5:
                x = other_singer(x, random)
            yield np.pad(x / np.abs(x).max(), (0, int(random.uniform(0, 0.3) * RATE)))

    sing_all(phrases, made / "data" / "vocals" / "spoken", minutes, 11)
    shutil.rmtree(made / "words")


def kits(corpus: Path, out: Path, made: Path, minutes: float) -> None:
    """Two recorded kits played by the drummers of MIDI files, in both channels; beats on the hits of seven others."""
    played = made / "data" / "drums" / "played"
    played.mkdir(parents=True)
    fonts = sorted(unpack_debian(PLAYED, out / "debian").glob("usr/share/sounds/sf2/*.sf2"))
    random = np.random.default_rng(13)
    for path in random.permutation(sorted((corpus / "midi" / "groove").glob("*.mid"))):
        font = fonts[int(random.integers(len(fonts)))]
        samples = play(mido.MidiFile(path, clip=True), font, made / "played.mid")
        if samples.shape[1] > 5 * RATE and np.abs(samples).max() > 1e-3:
            name = f"{font.stem.partition('_4')[0]}_{Path(path).stem}.flac"
            soundfile.write(played / name, 0.9 * samples.T / np.abs(samples).max(), RATE)
            minutes -= samples.shape[1] / RATE / 60
        if minutes < 0:
            break
    (made / "played.mid").unlink()
    hits, drumkits = (
        made / "kit_samples",
        unpack_debian(KITS, out / "debian") / "usr/share/hydrogen/data/drumkits",
    )
    for kit in FREE_KITS:
        for role, path in kit_hits(drumkits / kit):
            link(path, hits / "drums" / role / f"{kit.replace(' ', '_')}_{path.name}")
    play_synths(made, "kits", 40, "--sources", "drums", "--samples", hits, "--seed", 17)


def sampled(out: Path, made: Path, minutes: float) -> None:
    """Lines, chords and distorted riffs on single notes of recorded instruments."""
    notes, guitars = made / "notes", made / "guitar_notes"
    for name, version in NOTES.items():
        folder = unpack_npm(f"tonejs-instrument-{name}-mp3", version, out / "npm")
        for path in sorted(folder.glob("*.mp3")):
            link(path, notes / ("bass" if name in BASS_NOTES else "other") / name / path.name)
            if name.startswith("guitar"):
                link(path, guitars / "other" / name / path.name)
    play_synths(made, "sampled", minutes, "--sources", "bass,other", "--samples", notes, "--seed", 21)
    play_synths(made, "guitars", minutes, "--sources", "other", "--samples", guitars, "--seed", 22)


def varied(corpus: Path, made: Path, minutes: float) -> None:
    """The MIDI of `render` on instruments drawn at random, transposed."""
    sys.path.insert(0, str(corpus))
    renderer = importlib.import_module("render")
    songs = sorted((corpus / "midi" / "freedoom").glob("*.mid"))
    songs = [path for path in songs if path not in songs[:: renderer.HELD_OUT_EVERY]]
    random = np.random.default_rng(23)
    done = dict.fromkeys(PROGRAMS, 0.0)
    number = 0
    while min(done.values()) < minutes:
        path = songs[int(random.integers(len(songs)))]
        for source, midi in renderer.split(path).items():
            if done[source] < minutes:
                up = 0 if source == "drums" else int(random.integers(-4, 5))
                redress(midi, PROGRAMS[source], up, random)
                font = renderer.FONTS[int(random.integers(len(renderer.FONTS)))]
                target = made / "data" / source / "varied" / f"{path.stem}_{number:04d}.flac"
                done[source] += renderer.write(target, renderer.render(midi, font, 90)) / 60
                number += 1


def redress(midi: mido.MidiFile, programs: Sequence[int], up: int, random: np.random.Generator) -> None:
    """Give each channel of a MIDI file one of these programs, and play it so many semitones higher."""
    drawn = {channel: int(programs[int(random.integers(len(programs)))]) for channel in range(16)}
    first = mido.MidiTrack(
        mido.Message("program_change", channel=channel, program=program) for channel, program in drawn.items()
    )
    for track in midi.tracks:
        for message in track:
            if message.type == "program_change":
                message.program = drawn[message.channel]
            elif message.type in ("note_on", "note_off") and message.channel != 9:
                message.note = min(127, max(0, message.note + up))
    midi.tracks.insert(0, first)


def play(midi: mido.MidiFile, font: Path, part: Path) -> np.ndarray:
    """A drummer's MIDI on a kit that has the drums as an instrument: up to two minutes, samples (2, t)."""
    for track in midi.tracks:
        for message in track:
            if not message.is_meta and hasattr(message, "channel"):
                message.channel = 0
                if message.type in ("note_on", "note_off"):
                    message.note = PLAYED_KEYS.get(message.note, message.note)
    midi.save(part)
    sound = part.with_suffix(".wav")
    command = ["fluidsynth", "-ni", "-q", "-F", sound, "-r", RATE, "-g", 0.5, font, part]
    subprocess.run([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    samples = read(sound, 0.0, 120.0)
    sound.unlink()
    return samples


def kit_hits(folder: Path) -> Iterator[tuple[str, Path]]:
    """The drum that it is, and the file, of each hit of a Hydrogen kit."""
    for instrument in ElementTree.parse(folder / "drumkit.xml").iter():
        if not instrument.tag.endswith("instrument"):
            continue
        name = " ".join(e.text or "" for e in instrument if e.tag.endswith("name")).lower() + " "
        role = next((role for word, role in KIT_ROLES.items() if word in name), None)
        for element in instrument.iter():
            if role and element.tag.endswith("filename") and (folder / (element.text or "")).is_file():
                yield role, folder / str(element.text)


def sing_all(
    phrases: Callable[[np.random.Generator], Iterator[np.ndarray]], target: Path, minutes: float, seed: int
) -> None:
    """Write files of phrases until there are so many minutes."""
    random = np.random.default_rng(seed)
    target.mkdir(parents=True)
    done, number = 0.0, 0
    while done < minutes * 60:
        if pieces := list(phrases(random)):
            x = np.concatenate(pieces)
            soundfile.write(target / f"voice_{number:03d}.flac", 0.8 * x / np.abs(x).max(), RATE)
            done, number = done + len(x) / RATE, number + 1


def excerpts(corpus: Path, made: Path) -> None:
    """20 s each of a record without singing and a voice, which are not trained on; vocals against the rest."""
    for record, at, voice, sung_at, below in EXCERPTS:
        path = corpus / "accompaniment" / f"{HELD_OUT_RECORDS[record]}.ogg"
        link(path, made / "held_out" / path.name)
        rest = stereo(read(path, at, EXCERPT_SECONDS))
        (sung,) = (corpus if "/" in voice else corpus / "vocals").glob(f"{voice}.*")
        x = stereo(read(sung, sung_at, EXCERPT_SECONDS))[:, : rest.shape[1]]
        x *= rms(rest) / rms(x) * 10 ** (-below / 20)
        peak = np.abs(rest + x).max()
        folder = (
            made / "excerpts" / f"x{record}_{HELD_OUT_RECORDS[record].partition('_')[0]}_{Path(voice).stem}"
        )
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / "vocals.flac", 0.9 * x.T / peak, RATE)
        soundfile.write(folder / f"{SET}.flac", 0.9 * rest.T / peak, RATE)


def stereo(samples: np.ndarray) -> np.ndarray:
    """Two channels of these samples, the same twice where there is one."""
    return samples[[0, -1]]


def rms(samples: np.ndarray) -> float:
    """RMS of the loud parts: half a second at a time, those within 20 dB of the loudest."""
    pieces = samples[:, : samples.shape[1] // 22050 * 22050].reshape(len(samples), -1, 22050)
    power = np.square(pieces).mean((0, 2))
    return float(np.sqrt(power[power > 0.01 * power.max()].mean()))


def leave_out(data: Path) -> None:
    """Remove the recordings that are not what is listed under their name."""
    for path in unlike(HERE.parent / "docs" / "training_recordings.txt", data, MADE):
        print(f"left out: {path.relative_to(data)} is not the recording that was trained on", flush=True)
        path.unlink()


def main() -> None:
    """Run the steps that have not been run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default=",".join(STEPS))
    parser.add_argument("--minutes", type=float, default=160, help="of rendered MIDI for each source")
    args = parser.parse_args()
    corpus, out, minutes = args.corpus, args.out, args.minutes
    steps: dict[str, Callable[[Path], None]] = {
        "solos": lambda made: solos(corpus, made),
        "debian": lambda made: debian(corpus, out, made),
        "render": lambda made: render(corpus, made, minutes),
        "synthesise": lambda made: synthesise(out, made, minutes),
        "voices": lambda made: voices(out, made, minutes / 3),
        "speech": lambda made: speech(out, made, minutes / 4),
        "sampled": lambda made: sampled(out, made, minutes * 2 / 3),
        "varied": lambda made: varied(corpus, made, minutes),
        "kits": lambda made: kits(corpus, out, made, minutes / 2),
        "excerpts": lambda made: excerpts(corpus, made),
    }
    only = args.only.split(",")
    if unknown := sorted(set(only) - set(steps)):
        parser.error(f"unknown step {', '.join(unknown)}; there are {', '.join(steps)}")
    if not (corpus / "debian_music.tsv").is_file():
        parser.error(f"{corpus} is no corpus: it has no debian_music.tsv")
    with alone(out, "collect"):
        for name in only:
            take(
                steps[name],
                out / f"{name}.done",
                out / "making" / name,
                lambda made: leave_out(made / "data"),
            )


if __name__ == "__main__":
    main()
