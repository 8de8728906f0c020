import { build } from 'esbuild'
import { fileURLToPath } from 'node:url'

const programs = ['load', 'null-engine', 'plain-server', 'serve-many'] as const

/** The JavaScript of a program here. */
export function built (program: typeof programs[number]): string {
  return fileURLToPath(new URL(`dist/${program}.js`, import.meta.url))
}

/** Makes JavaScript of the programs whose processes are measured: a loader of TypeScript would be in their memory. */
export async function buildPrograms (): Promise<void> {
  await build({
    entryPoints: programs.map((program) => fileURLToPath(new URL(`${program}.ts`, import.meta.url))),
    outdir: fileURLToPath(new URL('dist', import.meta.url)),
    bundle: true, packages: 'external', platform: 'node', format: 'esm', target: 'node20', sourcemap: 'inline', logLevel: 'warning'
  })
}
