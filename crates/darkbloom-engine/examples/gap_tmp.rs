//! temp
use darkbloom_batch::*;
use darkbloom_engine::*;
use darkbloom_types::*;
use std::io::Write;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let n: u32 = a[2].parse().unwrap();
    let threads = a[3].parse().unwrap();
    let mut e =
        LlamaExecutor::load(std::path::Path::new(&a[1]), &LlamaSettings { threads, ..LlamaSettings::new(8, 256) })
            .unwrap();
    for slots in a[4].split(';').map(|x| x.split(',').map(|x| x.parse::<u32>().unwrap()).collect::<Vec<_>>()) {
        let mut best = f64::MAX;
        let mut all = vec![];
        let clear = slots.iter().map(|s| Slot(*s)).collect::<Vec<_>>();
        let mut clear = Some(clear);
        for p in 0..n {
            let c = std::time::Instant::now();
            let rs = slots
                .iter()
                .map(|r| RowWork {
                    slot: Slot(*r),
                    id: RowId(0),
                    start: p,
                    tokens: SecretTokens::new(vec![TokenId(5 + p + r)]),
                    sample: Some(SampleAt { sampling: Sampling::GREEDY, position: 0 }),
                })
                .collect();
            e.step(&StepPlan { clear: clear.take().unwrap_or_default(), rows: rs }).unwrap();
            let t = c.elapsed().as_secs_f64() * 1e3;
            best = best.min(t);
            all.push(t);
        }
        all.sort_by(f64::total_cmp);
        writeln!(std::io::stdout(), "  {slots:?} median {:.1} ms best {best:.1}", all[all.len() / 2]).unwrap();
    }
}
