import { fileURLToPath } from 'node:url'
import type { Plugin } from 'esbuild'
import ts from 'typescript'

/** A piece of a source, and what stands there instead. */
export interface Edit {
  readonly start: number
  readonly end: number
  readonly text: string
}

/** What is to be changed in a source. Edits of several do not overlap. */
export type Rewriter = (source: ts.SourceFile, checker: ts.TypeChecker) => Edit[]

/**
 * Has sources written otherwise where V8 makes better code of that, before they are bundled. To a debugger they are as they
 * were, by line.
 *
 * @param entry the modules that are built, from the current directory.
 */
export function rewriting (entry: readonly string[], rewriters: readonly Rewriter[]): Plugin {
  return {
    name: 'rewriting',
    setup (build) {
      let program: ts.Program
      build.onStart(() => { program = ts.createProgram([...entry], compilerOptions()) })
      build.onLoad({ filter: /\.ts$/ }, ({ path }) => {
        const source = program.getSourceFile(path)
        return source && { contents: rewritten(source, rewriters.flatMap((edits) => edits(source, program.getTypeChecker()))), loader: 'ts' }
      })
    }
  }
}

function compilerOptions (): ts.CompilerOptions {
  const root = fileURLToPath(new URL('..', import.meta.url))
  const { config } = ts.readConfigFile(`${root}/tsconfig.json`, (path) => ts.sys.readFile(path))
  return ts.convertCompilerOptionsFromJson(config.compilerOptions, root).options
}

function rewritten (source: ts.SourceFile, edits: Edit[]): string {
  const pieces: string[] = []
  let done = 0
  for (const { start, end, text } of edits.sort((one, other) => one.start - other.start)) {
    pieces.push(source.text.slice(done, start), text)
    done = end
  }
  return pieces.join('') + source.text.slice(done)
}
