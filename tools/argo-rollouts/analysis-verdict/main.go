// analysis-verdict judges as Argo Rollouts judges, with its own code: what a measurement says, how an analysis ends,
// and whether the controller takes the objects. It decides nothing itself.
//
// It reads one JSON request per line from standard input and answers each with one line on standard output, in order,
// until its input ends. tools/README.md says what it speaks.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

type envelope struct {
	ID json.RawMessage `json:"id,omitempty"`
	Do string          `json:"do"`
}

// A line holds whole templates, and the answers of hours.
const longestLine = 256 << 20

func main() {
	// Argo logs each measurement; the answer says all that is asked.
	logrus.SetOutput(io.Discard)
	logrus.SetLevel(logrus.PanicLevel)
	klog.SetOutput(io.Discard)
	klog.LogToStderr(false)

	out := bufio.NewWriter(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, 0, 1<<20), longestLine)
	for lines.Scan() {
		if err := respond(lines.Bytes(), out); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func respond(line []byte, out *bufio.Writer) error {
	var asked envelope
	answer, err := any(nil), json.Unmarshal(line, &asked)
	if err == nil {
		answer, err = dispatch(asked.Do, line)
	}
	response := map[string]any{}
	if err == nil {
		var text []byte
		if text, err = json.Marshal(answer); err == nil {
			err = json.Unmarshal(text, &response)
		}
	}
	if err != nil {
		response = map[string]any{"error": err.Error()}
	}
	if asked.ID != nil {
		response["id"] = asked.ID
	}
	text, err := json.Marshal(response)
	if err != nil {
		return err
	}
	if _, err = out.Write(append(text, '\n')); err != nil {
		return err
	}
	return out.Flush()
}

func dispatch(do string, line []byte) (any, error) {
	switch do {
	case "measure":
		return answerTo(line, measure)
	case "run":
		return answerTo(line, run)
	case "validate":
		return answerTo(line, validate)
	default:
		return nil, errors.New("do must be measure, run or validate")
	}
}

func answerTo[Request, Answer any](line []byte, work func(Request) (Answer, error)) (any, error) {
	var request Request
	if err := json.Unmarshal(line, &request); err != nil {
		return nil, err
	}
	return work(request)
}
