/** The commands and options of `colo`, read from the help that its own grammar prints. Pure. */

export interface HelpEntry {
  /** Such as `--dir` or `colo set-period <period>`. */
  readonly term: string;
  readonly text: string;
}

/** The entries below a heading such as `Options:`; none when the help has no such part. */
export function helpEntries(help: string, heading: string): HelpEntry[] {
  const lines = help.split('\n');
  const start = lines.indexOf(heading);
  const entries: { term: string; text: string }[] = [];
  for (const line of start === -1 ? [] : lines.slice(start + 1)) {
    if (line === '') break;
    const match = /^ {2}(\S.*?)(?: {2,}(.*))?$/.exec(line);
    if (match !== null) entries.push({ term: match[1] ?? '', text: match[2] ?? '' });
    else {
      const last = entries.at(-1);
      if (last !== undefined) last.text += ` ${line.trim()}`;
    }
  }
  return entries.map(({ term, text }) => ({ term, text: tidy(text) }));
}

/** `Text  [string] [default: "x"]` as two sentences. */
function tidy(text: string): string {
  const words = text.replace(/\[(?:string|boolean|array)\]/g, '').replace(/\s+/g, ' ');
  const notes = [...words.matchAll(/\[([^[\]]+)\]/g)].map((match) => match[1] ?? '');
  const said = words.replace(/\[[^[\]]+\]/g, '').trim();
  const shown = notes
    .filter((note) => note !== 'required' && note !== 'default: false')
    .map((note) => `${note[0]?.toUpperCase()}${note.slice(1).replaceAll('"', '')}.`);
  return [`${said}.`, ...shown].join(' ');
}
