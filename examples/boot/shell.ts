import type { CommandLine } from './command-lines.ts'

/** A command line as one types it, an option a line. */
export function shellText ({ program, arguments: args, file }: CommandLine): string {
  const lines = [quoted(program)]
  for (const [index, argument] of args.entries()) {
    const isValue = !argument.startsWith('-') && args[index - 1]?.startsWith('-') === true
    if (isValue) lines[lines.length - 1] += ` ${quoted(argument)}`
    else lines.push(quoted(argument))
  }
  const command = `${lines.join(' \\\n  ')}\n`
  return file === undefined ? command : `cat > ${quoted(file.path)} <<'END'\n${file.text}END\n${command}`
}

function quoted (word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`
}
