package smoke

import (
	"slices"
	"testing"
)

// What a faulty broker or client could do to the records must fail the comparison.
func TestSameSeesDamage(t *testing.T) {
	if err := same(records(100, 10), records(100, 10)); err != nil {
		t.Fatal(err)
	}
	damage := map[string]func([]Record) []Record{
		"lost":            func(r []Record) []Record { return r[1:] },
		"twice":           func(r []Record) []Record { return append(r, r[0]) },
		"one for another": func(r []Record) []Record { r[10] = r[0]; return r },
		"order in a key":  func(r []Record) []Record { r[0], r[10] = r[10], r[0]; return r },
		"value":           func(r []Record) []Record { r[5].Value = ""; return r },
		"header order":    func(r []Record) []Record { slices.Reverse(r[5].Headers); return r },
	}
	for name, apply := range damage {
		if same(records(100, 10), apply(records(100, 10))) == nil {
			t.Errorf("%s: not seen", name)
		}
	}
}
