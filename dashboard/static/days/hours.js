// Hours of the answer `shares`, by local day and hour or by day of the week.

const ROW = { time: 1, windows: 2, speech: 3, shares: 5, count: 7 };

/** What is known of an hour, or of several together. */
class Hour {
  windows = 0;
  spoken = 0; // windows with speech
  byLabel = [];
  count = 0; // utterances

  add(row) {
    const spoken = row[ROW.windows] * row[ROW.speech];
    this.windows += row[ROW.windows];
    this.spoken += spoken;
    row[ROW.shares].forEach((share, k) => (this.byLabel[k] = (this.byLabel[k] ?? 0) + share * spoken));
    this.count += row[ROW.count];
    return this;
  }

  get speech() {
    return this.windows ? this.spoken / this.windows : 0;
  }

  /** The most frequent label of its speech; null without speech. */
  top(labels) {
    return shares(this, labels)[0]?.[0] ?? null;
  }
}

/** Labels with their share of the speech, most frequent first; `uncertain` is the rest. */
export function shares(hour, labels) {
  if (!hour.spoken) return [];
  const known = labels.map((label, k) => [label, (hour.byLabel[k] ?? 0) / hour.spoken]);
  const rest = 1 - known.reduce((sum, [, share]) => sum + share, 0);
  return [...known, ["uncertain", rest]].filter(([, share]) => share > 0.005).sort((a, b) => b[1] - a[1]);
}

export class Hours {
  #hours = new Map();

  /** `start`: local midnight of the first row; null: one row per day of the week, Monday first. */
  constructor(answer, start) {
    for (const row of answer.rows) {
      const date = new Date(row[ROW.time] * 1000);
      const midnight = new Date(date.getFullYear(), date.getMonth(), date.getDate());
      const line = start === null ? (date.getDay() + 6) % 7 : Math.round((midnight / 1000 - start) / 86400);
      const key = `${line}:${date.getHours()}`;
      if (!this.#hours.has(key)) this.#hours.set(key, new Hour());
      this.#hours.get(key).add(row);
    }
  }

  static of = (row) => new Hour().add(row);

  at(line, hour) {
    return this.#hours.get(`${line}:${hour}`) ?? null;
  }
}
