import type { Failure, Result } from './campaign.ts'
import type { SurfaceName } from './options.ts'

/** The command line that plays one case again. */
export function replayLine (surface: SurfaceName, seed: number, number: number): string {
  return `npm run fuzz -- --surface=${surface} --seed=${seed} --case=${number}`
}

/** What was played, in a line. */
export function summary (surface: SurfaceName, seed: number, { played, milliseconds, failure }: Result): string {
  const seconds = milliseconds / 1000
  return `${surface}: ${played} cases in ${seconds.toFixed(1)} s (${Math.round(played / seconds)}/s), seed ${seed}, ` +
    (failure === undefined ? 'nothing found' : `case ${failure.number} failed`)
}

/** All that is known of a failure. */
export function describe (surface: SurfaceName, seed: number, { number, error, game, story, isFlaky }: Failure): string {
  return [
    `${surface}: seed ${seed}, case ${number} failed${isFlaky ? ', but not when it was repeated' : ''}:`,
    ...(error.stack ?? error.message).split('\n').map((line) => `  ${line}`),
    `what happened, with setup ${game.setup} and steps ${JSON.stringify(game.steps)}:`,
    ...story.map((line) => `  ${line}`),
    `again: ${replayLine(surface, seed, number)}`
  ].join('\n')
}
