import { execFileSync } from 'node:child_process'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const loader = fileURLToPath(new URL('../../tools/ts.mjs', import.meta.url))

/** The code blocks of a language in a README, in order. */
export function readmeBlocks (file: string, language: 'ts' | 'sh'): string[] {
  return [...readFileSync(file, 'utf8').matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, 'gms'))].map(([, code]) => code!)
}

/**
 * Runs a `ts` block of a package's README as a program of its own.
 *
 * @param packageDir the package's folder; the program runs inside it, so that it imports the package by its name.
 * @param index which block. @default 0, the first
 * @returns what it printed to standard output.
 * @throws when it does not end well within 200 seconds
 */
export function runReadmeExample (packageDir: string, index = 0): string {
  const example = readmeBlocks(join(packageDir, 'README.md'), 'ts')[index]
  if (example === undefined) throw new Error(`no ts block ${index} in ${packageDir}/README.md`)
  const file = join(packageDir, `.readme-example-${process.pid}.ts`)
  writeFileSync(file, example)
  try {
    return execFileSync(process.execPath, ['--import', loader, '--conditions=@node-vmm/source', file], {
      cwd: packageDir, encoding: 'utf8', timeout: 200_000, killSignal: 'SIGKILL', stdio: ['ignore', 'pipe', 'inherit']
    })
  } finally {
    rmSync(file)
  }
}
